"""`plexspaces journal`, `dead-letters` and `deploy --check` against a node with a durable account."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

from click.testing import CliRunner

from plexspaces_runtime.cli import app
from plexspaces_runtime.events import DeadLetter
from tests.simulation.journaled import Bank, bank, copied, edit, other


async def run(house: Bank | None, *words: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    env = {"HOME": "/nonexistent"}
    if house is not None:
        token = house.http.headers["authorization"].removeprefix("Bearer ")
        env |= {"PLEXSPACES_URL": str(house.http.base_url).rstrip("/"), "PLEXSPACES_TOKEN": token}

    def inside() -> tuple[int, str, str]:
        clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PLEXSPACES_")}
        with CliRunner().isolation("", {**clean, **env}) as (out, err, _):
            status = app.run(words)
            return int(status), out.getvalue().decode(), err.getvalue().decode()

    return await asyncio.to_thread(inside)


async def crash(house: Bank) -> None:
    """A message that is given up."""
    await house.tell("crash", why="\x1b[2J")
    async with asyncio.timeout(10):
        while not any(isinstance(event, DeadLetter) for event in house.seen):
            await asyncio.sleep(0.002)


async def test_ls_and_show(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.ask("deposit", amount=10)
        await house.tell("note", text="x" * 200)
        await crash(house)
        status, out, _ = await run(house, "journal", "ls")
        heading, line = out.splitlines()
        assert heading.split() == ["NAMESPACE", "ACTOR", "ENTRIES", "CHECKPOINT", "STATE", "WAITING", "TIMERS", "DEAD"]
        assert line.split()[:2] == ["default", "account"]
        assert line.split()[-1] == "1"
        status, out, _ = await run(house, "journal", "show", "account")
        assert status == 0
        assert max(map(len, out.splitlines())) <= 80
        # What an actor was told must not steer the terminal.
        assert "\x1b" not in out
        shown = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", re.sub(r"m-[0-9a-f-]+", "ID", out))
        assert (
            '#2-4    TIME  deposit {"amount": 10}\n'
            "          asked from outside; message ID\n"
            '          keyvalue.increment ["booked",10] -> 10\n'
            '       => {"balance": 10}\n'
        ) in shown
        assert "-- checkpoint, component " in shown
        assert "CRASHED crashed(Crash, as told): Crash: as told; it is tried again\n" in shown
        assert (
            "told from outside, attempt 2; message ID\n          the first 1 results are those of the attempt" in shown
        )
        status, out, _ = await run(house, "journal", "show", "account", "--json", "--last", "2")
        told = [json.loads(each) for each in out.splitlines()]
        assert len(told) == 2
        assert 2 in [each.get("attempt") for each in told]
        _, out, _ = await run(house, "journal", "show", "account", "--after", "4")
        assert out.startswith("#5 ")
        status, _, err = await run(house, "journal", "show", "nobody")
        assert (status, "plexspaces journal ls" in err) == (1, True)


async def test_verify_a_node_and_its_files(tmp_path: Path) -> None:
    async with bank(tmp_path / "data") as house:
        for _ in range(3):
            await house.ask("deposit", amount=10)
        status, out, _ = await run(house, "journal", "verify")
        assert (status, out) == (0, "default/account: 10 entries, ok\n")
        assert (await run(house, "journal", "verify", "account"))[:2] == (0, out)
        folder = copied(tmp_path / "data", tmp_path / "copy")
        # The files of a node that runs can be read as well.
        assert (await run(None, "journal", "verify", "--data-dir", str(tmp_path / "data")))[0] == 0
    edit(folder, "UPDATE journal SET body = replace(body, '10', '99') WHERE number = 5")
    status, out, err = await run(None, "journal", "verify", "--data-dir", str(folder))
    assert status == 1
    assert out == "acme/default/account: 10 entries, NOT WHAT WAS WRITTEN: the content of entry 5 was changed\n"
    assert "plexspaces journal recover" in err
    status, out, _ = await run(None, "journal", "verify", "account", "--data-dir", str(folder), "--json")
    (found,) = json.loads(out)["journals"]
    assert (status, found["number"], found["ok"]) == (1, 5, False)
    assert (await run(None, "journal", "verify", "--data-dir", str(folder), "--tenant", "other"))[0] == 0
    assert (await run(None, "journal", "verify", "nobody", "--data-dir", str(folder)))[0] == 1
    assert (await run(None, "journal", "verify", "--data-dir", str(tmp_path / "none")))[0] == 1
    edit(folder, "DELETE FROM durable")
    status, out, _ = await run(None, "journal", "verify", "--data-dir", str(folder))
    assert (status, "the actor's row was removed" in out) == (1, True)


async def test_recover(tmp_path: Path) -> None:
    async with bank(tmp_path / "first") as house:
        await house.ask("deposit", amount=10)
        await house.tell("note", text="one")
        await house.ask("balance")
        folder = copied(tmp_path / "first", tmp_path / "second")
    async with bank(folder, code=other) as house:
        status, out, err = await run(house, "journal", "recover", "account", "--redeliver")
        assert (status, err) == (0, "")
        lines = re.sub(r"m-[0-9a-f-]+", "ID", out).splitlines()
        assert lines[0] == "account is back at checkpoint 1; entry 9 says so"
        assert lines[1] == '  is delivered again: note (ID); it had been answered with "done"'
        assert lines[2] == '  is dead letter actor-1: deposit (ID); it had been answered with {"balance":10}'
        assert lines[-1] == "  it is up; messages that wait for it: 1"
        assert (await house.ask("balance"))["notes"] == ["one"]
        status, out, _ = await run(house, "journal", "show", "account", "--after", "8", "--last", "5")
        assert "an operator let it go back to the state of checkpoint 1\n" in out
        status, out, _ = await run(house, "journal", "recover", "account", "--json")
        assert (status, json.loads(out)["started"]) == (0, True)


async def test_dead_letters_of_actors(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await crash(house)
        _, out, _ = await run(house, "dead-letters", "ls")
        assert out.splitlines()[1].split()[:4] == ["actor-1", "account", "crash", "2"]
        assert await run(house, "dead-letters", "drop", "--all", "--source", "account") == (
            0,
            "dropped 1 dead letter\n",
            "",
        )
        assert await run(house, "dead-letters", "ls") == (0, "", "no dead letters\n")


async def test_deploy_check(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.ask("deposit", amount=10)
        for role in ("account", "other"):
            (tmp_path / f"{role}.wasm").write_text(json.dumps({"roles": [role]}))
        words = ("deploy", "--check", "-q", "--type", "account")
        status, out, _ = await run(house, *words, str(tmp_path / "account.wasm"))
        assert (status, out) == (0, "account: 1 of 1 durable actor agreed (1 message replayed)\n")
        status, out, err = await run(house, *words, str(tmp_path / "other.wasm"))
        assert status == 1
        assert re.sub(r"m-[0-9a-f-]+", "ID", out) == (
            "account: 0 of 1 durable actor agreed (0 messages replayed)\n"
            "  account, message ID (deposit): "
            'asked for clock.now-ns[], and keyvalue.increment["booked",10] is recorded\n'
        )
        assert "1 actor could not be made again as recorded; nothing was deployed" in err
        status, out, _ = await run(house, *words, "--json", str(tmp_path / "other.wasm"))
        assert (status, json.loads(out)["ok"]) == (1, False)
        assert (await run(house, "deploy", "--check", "--dry-run", str(tmp_path / "account.wasm")))[0] == 2
        (tmp_path / "app-config.toml").write_text(
            '[application]\nname = "bank"\n[[components]]\nname = "code"\npath = "other.wasm"\n[supervisor]\n'
            '[[supervisor.children]]\nname = "account"\nactor_type = "code"\nrole = "other"\n'
        )
        status, out, _ = await run(house, "deploy", "--check", "-q", str(tmp_path / "app-config.toml"))
        assert (status, out.splitlines()[0]) == (1, "account: 0 of 1 durable actor agreed (0 messages replayed)")
        assert house.node.deployments("acme")[0].version == 1
