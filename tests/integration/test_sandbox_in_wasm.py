"""The standard library as an actor finds it inside a sealed component, behind a node."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.errors import HandlerCrashed
from plexspaces_runtime.events import ActorExited, ActorUpgraded, GuestLogged
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE, TestBed, running

pytestmark = pytest.mark.guest
Guest = Callable[[str], Path]


async def sources(bed: TestBed, guest: Guest, *names: str) -> None:
    for name in names:
        await bed.deploy(name, guest("zoo"), role="sources")


async def test_all_clocks_are_the_nodes(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await sources(bed, guest, "one")
        earliest = bed.node.clock.now_ns()
        said = await bed.ask("one", "time")
        again = await bed.ask("one", "time")
        latest = bed.node.clock.now_ns()
        assert earliest / 1e9 - 1e-3 <= said["time"] <= latest / 1e9 + 1e-3
        assert earliest // 1_000_000 <= said["now_ms"] <= latest // 1_000_000
        at = datetime.datetime.fromisoformat(said["datetime"])
        assert at.utcoffset() == datetime.timedelta(0)
        assert earliest / 1e9 - 1e-3 <= at.timestamp() <= latest / 1e9 + 1e-3
        assert again["monotonic"] > said["monotonic"]
        assert said["strptime"] == "2024-02-29"


async def test_sleeping_suspends_for_as_long_as_it_says(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await sources(bed, guest, "one")
        assert 0.02 <= await bed.ask("one", "sleep", ms=20) < 10


async def test_no_two_instances_draw_the_same_chance(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await sources(bed, guest, "one", "two")
        one, two = await bed.ask("one", "chance"), await bed.ask("two", "chance")
        more = await bed.ask("one", "chance")
        # Generators made while the component was built included, whatever name they were imported under.
        assert {"random", "from_import", "own_generator", "early_generator", "uuid4", "token"} <= one.keys()
        for name in one:
            assert len({str(one[name]), str(two[name]), str(more[name])}) == 3, name


async def test_a_generator_with_a_seed_keeps_to_it(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await sources(bed, guest, "one", "two")
        assert await bed.ask("one", "seeded") == await bed.ask("two", "seeded")


async def test_what_is_printed_is_in_the_log_line_by_line(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await sources(bed, guest, "one")
        await bed.ask("one", "output")
        lines = [(line.level, line.message) for line in bed.events(GuestLogged)]
        assert lines == [
            ("info", "printed 1"),
            ("info", "two lines"),
            ("info", "in one call"),
            ("warn", "to stderr"),
            ("warn", "WARNING:root:through logging"),
        ]


@pytest.mark.parametrize(
    ("attempt", "kind", "remedy"),
    [
        ("open", "SandboxError", "state(), host.kv_put or host.blob_put"),
        ("write", "SandboxError", "state(), host.kv_put or host.blob_put"),
        ("pathlib", "SandboxError", "state(), host.kv_put or host.blob_put"),
        ("listdir", "SandboxError", "state(), host.kv_put or host.blob_put"),
        ("socket", "SandboxError", "host.http_fetch"),
        ("connect", "SandboxError", "host.http_fetch"),
        ("subprocess", "SandboxError", "host.spawn"),
        ("system", "SandboxError", "host.spawn"),
        ("thread", "SandboxError", "host.ask_many"),
        ("exit", "SandboxError", "host.stop"),
        ("input", "SandboxError", "it is sent messages"),
        ("missing", "MissingModule", "import it at module level"),
        ("syntax", "SyntaxError", "invalid syntax"),
    ],
)
async def test_what_the_sandbox_lacks_is_an_exception_that_names_what_to_use(
    guest: Guest, tmp_path: Path, attempt: str, kind: str, remedy: str
) -> None:
    async with running(tmp_path) as bed:
        await sources(bed, guest, "one")
        caught = await bed.ask("one", "attempt", what=attempt)
        assert caught["kind"] == kind
        assert remedy in caught["text"]
        # It was an exception like any other: the actor goes on.
        assert bed.events(ActorExited) == []
        assert await bed.ask("one", "sleep", ms=0) < 10


async def test_imports_in_functions_work_as_far_as_the_builder_could_see(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await sources(bed, guest, "one")
        assert await bed.ask("one", "imports") == {
            "decimal": "1.10",
            "email": "email.message",
            "encoded": "Grüße",
        }
        assert await bed.ask("one", "import_named", name="json") == "json"


async def test_state_of_every_kind_survives_an_upgrade(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("keeper", guest("zoo"), role="keeper")
        before = await bed.ask("keeper", "fill")
        await bed.deploy("keeper", guest("zoo"), role="keeper", arguments="lenient")
        assert len(bed.events(ActorUpgraded)) == 1
        after = await bed.ask("keeper", "check")
        assert after == {"same": True, "filled": 1, "reprs": before}
        # And what was read back can be kept again.
        await bed.deploy("keeper", guest("zoo"), role="keeper")
        assert await bed.ask("keeper", "check") == after


@pytest.mark.parametrize("how", ["memory_bomb", "memory_crumbs"])
async def test_exhausted_memory_is_reported_whatever_it_is_exhausted_with(
    guest: Guest, tmp_path: Path, how: str
) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("hostile", guest("zoo"), role="hostile")
        # With the figure it is the actor's own report; without, its interpreter gave up before it could make one.
        with pytest.raises(HandlerCrashed, match="memory_bytes_max = 67108864"):
            await bed.ask("hostile", how)
        (exit_,) = bed.events(ActorExited)
        assert exit_.reason.startswith("limit(memory)")
        assert await bed.ask("hostile", "ping") == {"calls": 1}


async def test_instances_share_the_memory_that_the_build_left(guest: Guest, tmp_path: Path) -> None:
    def private_bytes() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
        (kilobytes,) = [int(line.split()[1]) for line in lines if line.startswith("Anonymous:")]
        return kilobytes * 1024

    async with running(tmp_path) as bed:
        await bed.deploy("counter", guest("counter"))

        async def live(first: int, count: int) -> None:
            for number in range(first, first + count):
                await bed.node.spawn(Address(SCOPE, "counter", str(number)))
                assert await bed.ask(f"counter/{number}", "increment", amount=number) == {"count": number}

        await live(0, 100)
        before = private_bytes()
        await live(100, 200)
        # An instance that is shared with nobody takes 15 MB.
        assert (private_bytes() - before) / 200 < 1.2 * (1 << 20)
