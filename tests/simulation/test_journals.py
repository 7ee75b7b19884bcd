"""What operators see of durable actors and do with them, on a whole node with a database in a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.api.auth import LocalAuthority
from plexspaces_runtime.api.openapi import document
from plexspaces_runtime.durability.journals import Reader
from plexspaces_runtime.durability.offline import opened
from plexspaces_runtime.events import DeadLetter
from tests.simulation.journaled import ACCOUNT, Bank, bank, copied, deploy, edit, other, rows

JOURNAL = "/api/v1/journals/acme/default/account"
DEAD = "/api/v1/dead-letters"


async def history(house: Bank) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await house.get(JOURNAL))["history"]
    return found


async def until(done: Any) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.002)


async def dead(house: Bank) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await house.get(DEAD))["dead_letters"]
    return found


# -- what is seen -------------------------------------------------------------------------------------------


async def test_a_history_tells_what_happened(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.ask("deposit", amount=10)
        await house.tell("note", text="hello")
        with pytest.raises(Exception, match="no"):
            await house.ask("refuse")
        with pytest.raises(Exception, match="as told"):
            await house.ask("crash")
        assert (await house.ask("balance"))["balance"] == 10
        told = await history(house)
        assert [each["what"] for each in told if each["what"] == "checkpoint"][:1] == ["checkpoint"]
        messages = [each for each in told if each["what"] == "message"]
        assert [(each["op"], each["end"], each["kept"]) for each in messages] == [
            ("deposit", "reply", False),
            ("note", "reply", True),
            ("refuse", "refusal", False),
            ("crash", "crash", False),
            ("balance", "reply", False),
        ]
        first = messages[0]
        assert first["payload"] == {"amount": 10}
        assert first["outcome"] == {"balance": 10}
        assert [(call["function"], call["request"], call["result"]) for call in first["calls"]] == [
            ("keyvalue.increment", '["booked",10]', {"ok": 10})
        ]
        assert (first["first"], first["last"]) == (2, 4)
        assert messages[2]["outcome"]["message"] == "no"
        assert messages[3]["outcome"]["exit"].startswith("crashed(")
        (listed,) = (await house.get("/api/v1/journals"))["journals"]
        assert (listed["type"], listed["key"], listed["namespace"]) == ("account", "default", "default")
        assert (listed["first"], listed["dead"], listed["waiting"]) == (1, 0, 0)
        assert listed["last"] == max(each.get("last", 0) or each.get("number", 0) for each in told)


async def test_pages_are_the_whole(tmp_path: Path) -> None:
    async with bank(tmp_path, interval=3) as house:
        for amount in range(7):
            await house.ask("deposit", amount=amount)
        whole, paged, after = await history(house), [], 0
        assert len(whole) > 7
        while True:
            page = await house.get(f"{JOURNAL}?limit=2&after={after}")
            assert len(page["history"]) <= 2
            paged += page["history"]
            if "next" not in page:
                break
            after = page["next"]
        assert paged == whole


async def test_attempts_are_counted(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.tell("crash")
        await until(lambda: any(isinstance(event, DeadLetter) for event in house.seen))
        tries = [each for each in await history(house) if each["what"] == "message"]
        assert [(each["attempt"], each["reused"], each["again"]) for each in tries] == [(1, 0, True), (2, 1, False)]


async def test_another_tenant_sees_nothing(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.ask("deposit", amount=1)
        for path in (JOURNAL, JOURNAL + "/default/verify"):
            await house.get(path.replace("acme", "other"), 403)
        await house.post(JOURNAL.replace("acme", "other") + "/default/recover", 403)
        await house.get(JOURNAL.replace("account", "nobody"), 404)
        await house.post(JOURNAL.replace("account", "nobody") + "/default/recover", 404)
        authority = LocalAuthority(b"k" * 32, house.node.clock)
        for namespaces, seen in ((["other"], 0), ([], 0), (["default", "other"], 1)):
            token = authority.mint("acme", "bob", ["operator"], namespaces=namespaces)
            house.http.headers["authorization"] = f"Bearer {token}"
            assert len((await house.get("/api/v1/journals"))["journals"]) == seen
            await house.get(JOURNAL, 200 if seen else 403)


async def test_answers_are_as_described(tmp_path: Path) -> None:
    schemas = document()["components"]["schemas"]
    async with bank(tmp_path) as house:
        await house.ask("deposit", amount=1)
        await house.tell("crash")
        await until(lambda: any(isinstance(event, DeadLetter) for event in house.seen))
        page = await house.get(JOURNAL + "?limit=2")
        told = await history(house)
        items = {each["what"]: each for each in reversed(told)}
        for schema, value in [
            (schemas["Journals"], await house.get("/api/v1/journals")),
            (schemas["Journal"], (await house.get("/api/v1/journals"))["journals"][0]),
            (schemas["JournalPage"], page),
            (schemas["JournalItem"]["oneOf"][0], items["message"]),
            (schemas["JournalItem"]["oneOf"][1], items["checkpoint"]),
            (schemas["JournalCall"], items["message"]["calls"][0]),
            (schemas["DeadLetter"], (await dead(house))[0]),
            (schemas["Verdict"], await house.get(JOURNAL + "/default/verify")),
            (schemas["CheckReport"], report := await check(house, "account")),
            (schemas["Recovery"], done := await house.post(RECOVER)),
            (schemas["Moved"], {"id": "", "op": "", "end": "", "dead_letter": ""} | dict(*done["dead_letters"][:1])),
        ]:
            assert set(value) <= set(schema["properties"])
            assert set(schema["required"]) <= set(value)
        assert report["ok"]


# -- is it what was written ---------------------------------------------------------------------------------

E5 = "WHERE number = 5"
TAMPERED = {
    "content": (f"UPDATE journal SET body = replace(body, '10', '99') {E5}", 5, "the content of entry 5 was changed"),
    "kind": (f"UPDATE journal SET kind = 'begun' {E5}", 5, "the content of entry 5 was changed"),
    "hash": (f"UPDATE journal SET hash = x'00' {E5}", 5, "the hash of entry 5 was changed"),
    "the last hash": (
        "UPDATE journal SET hash = x'00' WHERE number = (SELECT max(number) FROM journal)",
        None,
        "the content of entry",
    ),
    "missing": (f"DELETE FROM journal {E5}", 5, "entry 5 is missing"),
    "the first": ("DELETE FROM journal WHERE number = 1", 1, "entry 1 is missing"),
    "the last": (
        "DELETE FROM journal WHERE number = (SELECT max(number) FROM journal)",
        None,
        "is missing, and all behind it",
    ),
    "renumbered": (f"DELETE FROM journal WHERE number = 6; UPDATE journal SET number = 6 {E5}", 5, "stands where"),
    "swapped": (
        f"UPDATE journal SET number = -1 {E5}; UPDATE journal SET number = 5 WHERE number = 6; "
        "UPDATE journal SET number = 6 WHERE number = -1",
        5,
        "entry 5 stands where entry 6 belongs",
    ),
    "far swapped": (
        f"UPDATE journal SET number = -1 {E5}; UPDATE journal SET number = 5 WHERE number = 8; "
        "UPDATE journal SET number = 8 WHERE number = -1",
        5,
        "entry 5 stands where entry 8 belongs",
    ),
    "all": ("DELETE FROM journal", 1, "entry 1 is missing"),
    "put in": (
        "INSERT INTO journal SELECT durable, 1000, kind, body, hash FROM journal WHERE number = 5",
        None,
        "miss",
    ),
    "state": ("UPDATE durable SET state = replace(state, '40', '99')", None, "the state of checkpoint"),
    "component": ("UPDATE durable SET component = 'x'", None, "another component"),
    "which checkpoint": ("UPDATE durable SET checkpoint = 2", 2, "entry 2 is no checkpoint"),
    "an earlier one": ("UPDATE durable SET checkpoint = 1", 1, "the state of checkpoint 1"),
    "none": ("UPDATE durable SET checkpoint = 0", 1, "there is no checkpoint"),
    "the row's hash": ("UPDATE durable SET hash = x'00'", None, "entries were replaced"),
    "the row's head": ("UPDATE durable SET head = 3", 3, "entries were replaced"),
    "the base": ("UPDATE durable SET base_hash = x'00'", 1, "what the actor's row says of the one before it"),
}


@pytest.mark.parametrize("name", TAMPERED)
async def test_whatever_is_changed_is_found(name: str, tmp_path: Path) -> None:
    sql, number, told = TAMPERED[name]
    async with bank(tmp_path, interval=4) as house:
        for _ in range(5):
            await house.ask("deposit", amount=10)
        verdict = await house.get(JOURNAL + "/default/verify")
        assert (verdict["ok"], verdict["problem"], verdict["first"]) == (True, "", 1)
    edit(tmp_path, *sql.split(";"))
    with opened(tmp_path) as table:
        found = await Reader(table).verify(ACCOUNT)
    assert told in found.problem
    if number is not None:
        assert found.number == number
    # It can still be looked at, as far as that goes.
    with opened(tmp_path) as table:
        Reader(table).history(ACCOUNT)


async def test_the_compacted_part_is_not_missed(tmp_path: Path) -> None:
    async with bank(tmp_path, interval=1) as house:
        for _ in range(9):
            await house.ask("deposit", amount=10)
        verdict = await house.get(JOURNAL + "/default/verify")
        assert verdict["ok"]
        assert verdict["first"] > 1


# -- dead letters -------------------------------------------------------------------------------------------


async def test_a_dead_letter_is_listed_and_retried_with_mended_code(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.tell("crash", id_="mine", why="bad")
        await until(lambda: any(isinstance(event, DeadLetter) for event in house.seen))
        (letter,) = await dead(house)
        assert letter.pop("dead_ms") > 1_600_000_000_000
        assert letter == {
            "id": "actor-1",
            "kind": "actor",
            "source": "account",
            "msg_type": "crash",
            "payload": {"why": "bad"},
            "deliveries": 2,
            "enqueued_ms": None,
            "reason": "crashed(Crash, as told)",
            "message_id": "mine",
        }
        assert (await house.get(DEAD + "?kind=channel"))["dead_letters"] == []
        assert len((await house.get(DEAD + "?kind=actor&source=account"))["dead_letters"]) == 1
        assert (await house.get(DEAD + "?kind=actor&source=other"))["dead_letters"] == []
        await house.post(f"{DEAD}/actor-1/retry?namespace=other", 404)
        await deploy(house.node, tmp_path, "mended")
        await house.post(f"{DEAD}/actor-1/retry", 204)
        assert await dead(house) == []
        await house.post(f"{DEAD}/actor-1/retry", 404)
        assert (await house.ask("balance"))["balance"] == 0
        last = [each for each in await history(house) if each.get("op") == "crash"][-1]
        assert (last["outcome"], last["attempt"], last["id"]) == ("mended", 1, "mine")


async def test_a_retried_letter_survives_the_node(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.tell("crash")
        await until(lambda: any(isinstance(event, DeadLetter) for event in house.seen))
        await deploy(house.node, tmp_path, "mended")
        await house.node.stop_actor(house.node.actors("acme")[0].address)
        # The actor is down: the message waits for it.
        await house.post(f"{DEAD}/actor-1/retry", 204)
        assert (await house.get("/api/v1/journals"))["journals"][0]["waiting"] == 1
    async with bank(tmp_path) as house:
        await house.post("/api/v1/actors/acme/default/account/default/restart", 204)
        assert (await house.ask("balance"))["balance"] == 0
        assert [each["outcome"] for each in await history(house) if each.get("op") == "crash"][-1] == "mended"
        assert (await house.get("/api/v1/journals"))["journals"][0]["waiting"] == 0


async def test_a_virtual_actor_wakes_for_a_retried_letter(tmp_path: Path) -> None:
    async with bank(tmp_path, more='{ type = "virtual_actor", config = { idle_timeout = "20ms" } }') as house:
        await house.tell("crash")
        await until(lambda: any(isinstance(event, DeadLetter) for event in house.seen))
        await deploy(
            house.node, tmp_path, "mended", more='{ type = "virtual_actor", config = { idle_timeout = "20ms" } }'
        )
        await until(lambda: not house.node.actors("acme"))
        await house.post(f"{DEAD}/actor-1/retry", 204)
        await until(lambda: rows(tmp_path, "SELECT count(*) FROM inbox") == [(0,)])
        assert await dead(house) == []


async def test_a_dead_letter_is_dropped(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        for _ in range(3):
            await house.tell("crash")
        await until(lambda: sum(isinstance(event, DeadLetter) for event in house.seen) == 3)
        page = await house.get(DEAD + "?limit=2")
        assert ([each["id"] for each in page["dead_letters"]], page["next"]) == (["actor-1", "actor-2"], "actor-2")
        page = await house.get(DEAD + "?limit=2&after=actor-2")
        assert ([each["id"] for each in page["dead_letters"]], "next" in page) == (["actor-3"], False)
        assert (await house.http.delete(f"{DEAD}/actor-2")).status_code == 204
        assert (await house.http.delete(f"{DEAD}/actor-2")).status_code == 404
        assert [each["id"] for each in await dead(house)] == ["actor-1", "actor-3"]


# -- the way out --------------------------------------------------------------------------------------------


RECOVER = JOURNAL + "/default/recover"


async def killed(folder: Path) -> Path:
    """What a node left that was killed with one checkpoint, that of the start, and four messages behind it."""
    async with bank(folder / "first") as house:
        await house.ask("deposit", amount=10)
        await house.tell("note", id_="the-note", text="one")
        await house.tell("deposit", amount=5)
        assert (await house.ask("balance"))["balance"] == 15
        return copied(folder / "first", folder / "second")


async def test_an_actor_that_cannot_be_made_again_is_down_and_says_why(tmp_path: Path) -> None:
    folder = await killed(tmp_path)
    async with bank(folder, code=other, restarts=0) as house:
        (root,) = (await house.get("/api/v1/tree"))["tree"]
        assert "nondeterminism" in root["last_exit"]
        assert (await house.http.get("/api/v1/actors/acme/default/account?op=balance")).status_code == 503


async def test_the_way_out_keeps_what_was_recorded_as_dead_letters(tmp_path: Path) -> None:
    folder = await killed(tmp_path)
    async with bank(folder, code=other) as house:
        done = await house.post(RECOVER)
        assert (done["checkpoint"], done["damage"], done["redelivered"], done["set_aside"]) == (1, "", [], [])
        assert [(each["op"], each["dead_letter"]) for each in done["dead_letters"]] == [
            ("deposit", "actor-1"),
            ("note", "actor-2"),
            ("deposit", "actor-3"),
            ("balance", "actor-4"),
        ]
        assert done["started"]
        letters = await dead(house)
        assert [each["id"] for each in letters] == ["actor-1", "actor-2", "actor-3", "actor-4"]
        assert letters[0]["payload"] == {"amount": 10}
        assert 'answered with {"balance":10}' in letters[0]["reason"]
        # The state is that of the checkpoint; what was booked outside of it stays booked.
        assert await house.ask("balance") == {"balance": 0, "booked": 15, "notes": None}
        # The journal goes on in one piece, and tells of it.
        assert (await house.get(JOURNAL + "/default/verify"))["ok"]
        (back,) = [each for each in await history(house) if each.get("back_to")]
        assert (back["back_to"], back["number"]) == (1, done["recorded"])
        # Each can be taken up again, though one of its id was answered.
        await house.post(f"{DEAD}/actor-2/retry", 204)
        assert (await house.ask("balance"))["notes"] == ["one"]
        again = copied(folder, tmp_path / "third")
    async with bank(again, code=other) as house:
        assert (await house.ask("balance"))["notes"] == ["one"]
        assert len(await dead(house)) == 3


async def test_the_way_out_delivers_again_what_nobody_waits_for(tmp_path: Path) -> None:
    folder = await killed(tmp_path)
    async with bank(folder, code=other) as house:
        done = await house.post(RECOVER + "?remaining=redeliver")
        assert [each["op"] for each in done["redelivered"]] == ["note", "deposit"]
        assert [each["op"] for each in done["dead_letters"]] == ["deposit", "balance"]
        assert done["waiting"] == 2
        # In their order, and with all they cause.
        assert await house.ask("balance") == {"balance": 5, "booked": 20, "notes": ["one"]}
        told = [each for each in await history(house) if each["what"] == "message"]
        assert [each["op"] for each in told[-3:]] == ["note", "deposit", "balance"]
        assert rows(folder, "SELECT count(*) FROM inbox") == [(0,)]


async def test_those_delivered_again_come_before_those_that_wait(tmp_path: Path) -> None:
    async with bank(tmp_path / "first") as house:
        await house.ask("deposit", amount=10)
        await house.tell("note", text="one")
        await house.tell("note", text="two")
        assert (await house.ask("balance"))["notes"] == ["one", "two"]
        folder = copied(tmp_path / "first", tmp_path / "second")
    late = {"id": "late", "kind": "cast", "op": "note", "payload": '{"text":"three"}'}
    edit(folder, f"INSERT INTO inbox SELECT id, 7, '{json.dumps(late)}', 0 FROM durable")
    async with bank(folder, code=other) as house:
        done = await house.post(RECOVER + "?remaining=redeliver")
        assert (done["waiting"], len(done["redelivered"])) == (3, 2)
        assert (await house.ask("balance"))["notes"] == ["one", "two", "three"]


async def test_a_message_in_flight_is_delivered_again_or_kept(tmp_path: Path) -> None:
    async with bank(tmp_path / "first") as house:
        # Replayed first, so that there is a checkpoint in the middle of the other.
        await house.ask("deposit", amount=10)
        await house.tell("wait", text="one")
        await until(lambda: rows(tmp_path / "first", "SELECT count(*) FROM journal WHERE kind = 'begun'") == [(1,)])
        folders = [copied(tmp_path / "first", tmp_path / name) for name in ("kept", "again")]
    for folder, query, redelivered, letters in (
        (folders[0], "", [], ["wait"]),
        (folders[1], "?remaining=redeliver", ["wait"], []),
    ):
        async with bank(folder) as house:
            done = await house.post(RECOVER + query)
            assert [each["op"] for each in done["redelivered"]] == redelivered
            assert [each["op"] for each in done["dead_letters"]] == letters
            assert done["waiting"] == len(redelivered)
            assert rows(folder, "SELECT count(*) FROM inbox") == [(len(redelivered),)]
            # Nothing of it is to be given again.
            assert rows(folder, "SELECT flying, open_from FROM durable") == [(0, 0)]
            assert (await house.get(JOURNAL + "/default/verify"))["ok"]
            again = copied(folder, tmp_path / f"{folder.name}-again")
        async with bank(again) as house:
            # What is kept as a dead letter is not taken up.
            assert [actor.state for actor in house.node.actors("acme")] == (["waiting"] if redelivered else ["idle"])


@pytest.mark.parametrize(
    ("sql", "aside", "letters", "balance"),
    [
        # The second message: what is behind it cannot be told from what somebody has put there.
        ("UPDATE journal SET body = replace(body, 'one', 'two') WHERE number = 5", [5, 6, 7, 8, 9, 10, 11], 1, 0),
        ("DELETE FROM journal WHERE number = 5", [6, 7, 8, 9, 10, 11], 1, 0),
    ],
)
async def test_what_cannot_be_read_is_set_aside_and_named(
    sql: str, aside: list[int], letters: int, balance: int, tmp_path: Path
) -> None:
    folder = await killed(tmp_path)
    edit(folder, sql)
    async with bank(folder, restarts=0) as house:
        (root,) = (await house.get("/api/v1/tree"))["tree"]
        assert "journal-damaged" in root["last_exit"]
        done = await house.post(RECOVER)
        assert "entry 5" in done["damage"]
        assert (done["set_aside"], len(done["dead_letters"])) == (aside, letters)
        assert rows(folder, "SELECT number FROM journal_aside ORDER BY id") == [(number,) for number in aside]
        assert done["started"], done["problem"]
        assert (await house.ask("balance"))["balance"] == balance
        assert (await house.get(JOURNAL + "/default/verify"))["ok"]
        assert (await house.get("/api/v1/journals"))["journals"][0]["aside"] == len(aside)


async def test_damage_before_the_checkpoint_costs_no_message(tmp_path: Path) -> None:
    async with bank(tmp_path / "first", interval=2) as house:
        for _ in range(5):
            await house.ask("deposit", amount=10)
        folder = copied(tmp_path / "first", tmp_path / "second")
    edit(folder, "DELETE FROM journal WHERE number = 3")
    async with bank(folder) as house:
        assert (await house.ask("balance"))["balance"] == 50
        assert not (await house.get(JOURNAL + "/default/verify"))["ok"]
        done = await house.post(RECOVER)
        # Only what was asked since.
        assert [each["op"] for each in done["dead_letters"]] == ["balance"]
        assert max(done["set_aside"]) < done["checkpoint"]
        assert (await house.ask("balance"))["balance"] == 50
        assert (await house.get(JOURNAL + "/default/verify"))["ok"]
        await house.ask("deposit", amount=10)
        again = copied(folder, tmp_path / "third")
    async with bank(again) as house:
        assert (await house.ask("balance"))["balance"] == 60
        assert (await house.get(JOURNAL + "/default/verify"))["ok"]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE durable SET state = replace(state, '20', '99')",
        "DELETE FROM journal WHERE number = (SELECT checkpoint FROM durable)",
    ],
)
async def test_a_state_that_is_not_known_to_be_right_is_taken_only_if_that_is_said(sql: str, tmp_path: Path) -> None:
    async with bank(tmp_path / "first", interval=2) as house:
        for _ in range(2):
            await house.ask("deposit", amount=10)
        await until(lambda: rows(tmp_path / "first", "SELECT checkpoint FROM durable WHERE checkpoint > 1"))
        folder = copied(tmp_path / "first", tmp_path / "second")
    edit(folder, sql)
    async with bank(folder, restarts=0) as house:
        problem = await house.post(RECOVER, 409)
        assert "accept_state" in problem["detail"]
        done = await house.post(RECOVER + "?accept_state=true")
        assert "checkpoint" in done["damage"] or "entry" in done["damage"]
        assert done["started"], done["problem"]
        assert (await house.ask("balance"))["balance"] in (20, 99)
        assert (await house.get(JOURNAL + "/default/verify"))["ok"]


async def test_a_sound_actor_that_lives_may_go_back_too(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.ask("deposit", amount=10)
        both = await asyncio.gather(house.http.post(RECOVER), house.http.post(RECOVER))
        assert sorted(answer.status_code for answer in both) in ([200, 200], [200, 409])
        assert (await house.ask("balance"))["balance"] == 0
        assert len(await dead(house)) >= 1


# -- another version ----------------------------------------------------------------------------------------


async def check(house: Bank, role: str) -> dict[str, Any]:
    form = {"namespace": "default", "actor_type": "account", "check": "true", "config": json.dumps({"role": role})}
    files = {"wasm": ("code.wasm", json.dumps({"roles": [role]}), "application/wasm")}
    answer = await house.http.post("/api/v1/deploy", data=form, files=files)
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    return report


async def test_a_version_is_tried_against_what_was_recorded(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.ask("deposit", amount=10)
        await house.tell("note", text="one")
        with pytest.raises(Exception, match="as told"):
            await house.ask("crash")
        await house.ask("deposit", amount=7)
        before = rows(tmp_path, "SELECT number, body FROM journal"), rows(tmp_path, "SELECT state, head FROM durable")
        same = await check(house, "account")
        # Since the checkpoint of the restart.
        assert (same["ok"], same["agreed"], same["messages"], same["diverged"]) == (True, 1, 1, [])
        report = await check(house, "other")
        assert (report["ok"], report["agreed"]) == (False, 0)
        (found,) = report["diverged"]
        assert (found["actor"], found["op"]) == ("account", "deposit")
        assert found["problem"] == 'asked for clock.now-ns[], and keyvalue.increment["booked",7] is recorded'
        assert (await check(house, "mended"))["ok"]
        (found,) = (await check(house, "curt"))["diverged"]
        assert found["problem"] == ('ended with {"reply":"\\"ok\\""}, and {"reply":"{\\"balance\\":17}"} is recorded')
        # Nothing was written, nobody was disturbed.
        await house.node.stores.flushed()
        assert before == (
            rows(tmp_path, "SELECT number, body FROM journal"), rows(tmp_path, "SELECT state, head FROM durable")
        )  # fmt: skip
        assert (await house.ask("balance")) == {"balance": 17, "booked": 17, "notes": ["one"]}
        assert house.node.deployments("acme")[0].version == 1


async def test_what_is_in_flight_is_tried_as_far_as_it_is_recorded(tmp_path: Path) -> None:
    async with bank(tmp_path) as house:
        await house.tell("wait", text="one")
        await until(lambda: rows(tmp_path, "SELECT count(*) FROM journal WHERE kind = 'begun'") == [(1,)])
        assert (await check(house, "account"))["messages"] == 1
        assert house.node.actors("acme")[0].state == "waiting"


async def test_stored_actors_are_tried_too(tmp_path: Path) -> None:
    async with bank(tmp_path, more='{ type = "virtual_actor", config = { idle_timeout = "10s" } }') as house:
        await house.ask("deposit", amount=1)
        folder = copied(tmp_path, tmp_path.parent / "second")
    async with bank(folder) as house:
        assert house.node.actors("acme") == []
        assert (await check(house, "account"))["messages"] == 1
        assert not (await check(house, "other"))["ok"]
        assert house.node.actors("acme") == []


async def test_damage_is_no_agreement(tmp_path: Path) -> None:
    folder = await killed(tmp_path)
    edit(folder, "DELETE FROM journal WHERE number = 5")
    async with bank(folder, restarts=0) as house:
        (found,) = (await check(house, "account"))["diverged"]
        assert "damaged" in found["problem"]
