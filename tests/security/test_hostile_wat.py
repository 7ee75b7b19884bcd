"""Components written by hand, which pass what no language would: the node answers, or ends them with a named reason."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import wat2wasm

from plexspaces_runtime.errors import HandlerCrashed, LimitExceeded, PlexSpacesError
from plexspaces_runtime.events import ActorExited, FacetFault, HostFault, NodeFault, StorageFault
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.wasm import wit
from tests.nodes import SCOPE, TestBed, running
from tests.security.fuzzing import NASTY, check_named, examples
from tests.security.hostile_wat import (
    HEAP,
    INPUT,
    MEMORY_BYTES,
    RESULT,
    SCRATCH,
    Deed,
    Import,
    Realloc,
    hostile,
    imports,
    payload,
)

PACKAGE = wit.load()
EVERY = imports(PACKAGE)
NUMBERS = {each.name: each.number for each in EVERY}
WAT = Address(SCOPE, "wat")
# Calls that wait give up soon.
LIMITS = {
    "wall_s_per_message_max": 0.3,
    "ask_timeout_ms": 100,
    "cpu_ms_per_message_max": 200,
    "memory_bytes_max": 32 << 20,
    "host_calls_per_message_max": 2_000,
}
FAULTS = (HostFault, NodeFault, FacetFault, StorageFault)


def wasm(folder: Path, name: str = "wat", **parts: str) -> Path:
    file = folder / f"{name}.wasm"
    file.write_bytes(bytes(wat2wasm(hostile(PACKAGE, **parts))))
    return file


def deed(what: Deed, *words: int, scratch: bytes = b"") -> str:
    return payload(len(EVERY) + what, words, scratch)


async def do(bed: TestBed, text: str, timeout_s: float = 20.0) -> str:
    """What came of it: the reply, or the error's code; the actor is there again afterwards."""
    try:
        return await bed.node.ask(WAT, "do", text, timeout_s=timeout_s)
    except PlexSpacesError as error:
        check_named(error)
        if isinstance(error, HandlerCrashed):
            await bed.node.restart_actor(WAT)
        return error.code


def faults(bed: TestBed) -> list[Any]:
    """What the node blames itself for."""
    return [event for event in bed.seen if isinstance(event, FAULTS)]


class World:
    """A node that lives as long as the module's tests, with the hostile component on it."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self._context = running(folder, **LIMITS)
        self.bed: TestBed = self.runner.run(self._open(folder))

    async def _open(self, folder: Path) -> TestBed:
        bed = await self._context.__aenter__()
        await bed.deploy("wat", wasm(folder), restart="temporary")
        return bed

    def do(self, text: str) -> str:
        return self.runner.run(do(self.bed, text))

    def fresh(self) -> None:
        """Begin with an instance in whose memory nothing is left of what was tried before."""
        self.runner.run(self.bed.node.restart_actor(WAT))

    def close(self) -> None:
        self.runner.run(self._context.__aexit__(None, None, None))
        self.runner.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("wat"))
    yield made
    made.close()


# -- every import, any words -------------------------------------------------------------------------------

TEXTS = [text.encode("utf-8", "surrogatepass")[:3_000] for text in NASTY] + [
    b"\xff\xfe",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"wat",
    b"wat/x",
    b"nobody",
    b"{}",
    b'{"a":NaN}',
    b"[1,null]",
    b"/a/b",
    b"../x",
    b"acme/default/wat",
    b"victim",
    b"AAAA",
    b"/",
    b"*",
    b"wat\x00x",
    b"message-1",
    b"timer-1",
    b"m-1",
]
POINTERS = (
    0,
    1,
    SCRATCH,
    SCRATCH + 1,
    RESULT,
    INPUT,
    MEMORY_BYTES - 1,
    MEMORY_BYTES,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32 - 8,
)
LENGTHS = (0, 1, 2, 5, 8, 100, 4_096, 100_000, MEMORY_BYTES, 2**31 - 1, 2**31, 2**32 - 1, 2**28)
# What a number may be, but not how long to wait: waits end by limits of their own, and each costs its time.
NUMBERS_64 = (0, 1, 2, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 0x7FF0_0000_0000_0000, 0x7FF8_0000_0000_0001)
DISCRIMINANTS = (0, 1, 2, 3, 16, 17, 255, 256, 2**31, 2**32 - 1)


@st.composite
def calls(draw: st.DrawFn, each: Import) -> str:
    """A message that makes the component call an import."""
    scratch = bytearray()
    words: list[int] = []
    plausible = draw(st.booleans())
    for flat in each.flat:
        if flat == "i64":
            words.append(draw(st.sampled_from(NUMBERS_64)))
        elif flat in ("f32", "f64"):
            words.append(draw(st.integers(0, 2**64 - 1)))
        elif plausible:
            # A pointer and a length, or a discriminant: both look like this.
            text = draw(st.sampled_from(TEXTS))
            words.append(draw(st.sampled_from((SCRATCH + len(scratch), len(text), 0, 1))))
            scratch += text
        else:
            words.append(draw(st.sampled_from((*POINTERS, *LENGTHS, *DISCRIMINANTS))))
    if plausible:
        words = _texts(draw, each, words, scratch)
    scratch += draw(st.binary(max_size=64))
    realloc = draw(st.sampled_from([Realloc.HONEST] * 4 + [mode for mode in Realloc if mode != Realloc.LOOPS]))
    return payload(each.number, words, bytes(scratch[:12_000]), realloc)


def _texts(draw: st.DrawFn, each: Import, words: list[int], scratch: bytearray) -> list[int]:
    """Let the texts among the parameters be texts, most of the time."""
    at = 0
    for _, type_ in each.function.params:
        at = _lay(draw, type_, words, at, scratch)
    return words


def _lay(draw: st.DrawFn, type_: wit.Type, words: list[int], at: int, scratch: bytearray) -> int:
    match type_:
        case wit.Primitive("string"):
            text = draw(st.sampled_from(TEXTS))
            words[at : at + 2] = [SCRATCH + len(scratch), len(text)]
            scratch += text
            return at + 2
        case wit.List():
            words[at : at + 2] = [SCRATCH, draw(st.sampled_from((0, 1, 3, *LENGTHS)))]
            return at + 2
        case wit.Record(_, fields):
            for _, inner in fields:
                at = _lay(draw, inner, words, at, scratch)
            return at
        case wit.Option(of):
            words[at] = draw(st.sampled_from((0, 1, 1, 2)))
            return _lay(draw, of, words, at + 1, scratch)
        case wit.Primitive("u64" | "s64" | "f64" | "f32"):
            return at + 1
        case _:
            words[at] = draw(st.sampled_from(DISCRIMINANTS))
            return at + 1


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_an_import_with_any_words(world: World, name: str) -> None:
    each = EVERY[NUMBERS[name]]

    @examples(12)
    @given(calls(each))
    def attack(text: str) -> None:
        world.bed.seen.clear()
        came = world.do(text)
        assert came.isdigit() or came in ("handler-crashed", "deadline-exceeded", "actor-exited", "actor-not-found")
        assert faults(world.bed) == []
        # Ended by itself or by somebody else's hand, it comes back as a new one, and answers.
        world.runner.run(alive(world.bed))

    attack()


async def alive(bed: TestBed) -> None:
    try:
        found = await bed.node.ask(WAT, "do", payload(NUMBERS["random.random-u64"]), timeout_s=20)
    except PlexSpacesError:
        await bed.node.restart_actor(WAT)
        found = await bed.node.ask(WAT, "do", payload(NUMBERS["random.random-u64"]), timeout_s=20)
    assert found.isdigit()


def test_every_function_of_the_contract_is_attacked() -> None:
    assert set(NUMBERS) == {
        f"{interface.name}.{function}" for interface in PACKAGE.interfaces.values() for function in interface.functions
    }
    assert len(NUMBERS) > 60


def test_texts_that_are_none_are_refused_before_the_node_sees_them(world: World) -> None:
    """Out of bounds, of two to the 32 bytes, or not UTF-8: the call traps."""
    log = NUMBERS["logging.log"]
    for words, scratch in (
        ((1, MEMORY_BYTES - 1, 2), b""),
        ((1, 2**32 - 1, 1), b""),
        ((1, SCRATCH, 2**32 - 1), b""),
        ((1, SCRATCH, 3), b"\xed\xa0\x80"),
        ((1, SCRATCH, 1), b"\xff"),
        ((4, SCRATCH, 1), b"a"),
        ((2**32 - 1, SCRATCH, 1), b"a"),
    ):
        world.fresh()
        world.bed.seen.clear()
        assert world.do(payload(log, words, scratch)) == "handler-crashed"
        (gone,) = world.bed.events(ActorExited)
        assert gone.reason.startswith("crashed(trap"), (words, gone.reason)
    world.fresh()
    assert world.do(payload(log, (1, SCRATCH, 1), b"a")) == "0"


def test_texts_that_lie_on_top_of_one_another_are_not_copied_without_end(world: World) -> None:
    """Twenty thousand requests whose three texts are the same 200,000 bytes: 12 GB for half a megabyte of memory."""
    request = (RESULT.to_bytes(4, "little") + (50_000).to_bytes(4, "little")) * 3
    world.fresh()
    world.bed.seen.clear()
    assert (
        world.do(payload(NUMBERS["messaging.ask-many"], (SCRATCH, 20_000, 10), request * 20_000)) == "handler-crashed"
    )
    (gone,) = world.bed.events(ActorExited)
    assert "too much data" in gone.traceback or "too much data" in gone.reason


@pytest.mark.parametrize(
    "name", ["messaging.send", "messaging.ask", "timers.send-after", "timers.send-interval", "process-groups.broadcast"]
)
def test_an_operation_as_long_as_a_book_waits_in_nobodys_mailbox(world: World, name: str) -> None:
    """A mailbox counts messages: each must be of a size that is known."""
    op = b"o" * 100_000
    words = {
        "messaging.send": [SCRATCH + len(op), 3, SCRATCH, len(op), SCRATCH + len(op) + 3, 2],
        "messaging.ask": [SCRATCH + len(op), 3, SCRATCH, len(op), SCRATCH + len(op) + 3, 2, 10],
        "timers.send-after": [10**6, SCRATCH, len(op), SCRATCH + len(op) + 3, 2],
        "timers.send-interval": [10**6, SCRATCH, len(op), SCRATCH + len(op) + 3, 2],
        "process-groups.broadcast": [SCRATCH + len(op), 3, SCRATCH, len(op), SCRATCH + len(op) + 3, 2],
    }[name]
    if name == "process-groups.broadcast":
        # Somebody else has to be in the group, or there is nobody to send to.
        world.runner.run(joined(world.bed))
    assert world.do(payload(NUMBERS[name], words, op + b"wat{}")) == "1"
    short = [word if word != len(op) else 256 for word in words]
    if name != "messaging.ask":
        assert world.do(payload(NUMBERS[name], short, op + b"wat{}")) == "0"


async def joined(bed: TestBed) -> None:
    if not any(info.address.type == "member" for info in bed.node.actors("acme")):
        await bed.node.deploy(SCOPE, "member", bed.node.config.data_dir / "wat.wasm", {})
    member = Address(SCOPE, "member")
    assert await bed.node.ask(member, "do", payload(NUMBERS["process-groups.join"], (SCRATCH, 3), b"wat")) == "0"


def test_a_name_of_megabytes_is_refused_before_anybody_thinks_of_it(world: World) -> None:
    # It has to have as much memory first, and texts in all of it.
    assert world.do(deed(Deed.LONG_REPLY, 10 << 20)) == "limit-exceeded"
    long = (HEAP, 9 << 20)
    for name, words in (
        ("keyvalue.get", long),
        ("messaging.reply", (*long, SCRATCH, 2)),
        ("lifecycle.stop", (*long, SCRATCH, 2)),
        ("streams.unsubscribe", long),
        ("registry.find", (*long, SCRATCH, 0, SCRATCH, 0, 1)),
    ):
        assert world.do(payload(NUMBERS[name], words, b"{}")) == "1", name
    assert faults(world.bed) == []
    # A line of the log has no room for an error, and is cut.
    assert world.do(payload(NUMBERS["logging.log"], (1, *long))) == "0"


REALLOCS = {
    Realloc.NOTHING: "",
    Realloc.OUT_OF_BOUNDS: "crashed(trap",
    Realloc.TRAPS: "crashed(trap",
    Realloc.LOOPS: "limit(cpu)",
    Realloc.CALLS_THE_HOST: "crashed(trap",
    Realloc.GROWS: "",
    Realloc.SAME_PLACE: "",
}


@pytest.mark.parametrize("realloc", REALLOCS)
def test_an_allocator_that_lies(world: World, realloc: Realloc) -> None:
    """The node hands out a text while the component's own code decides where it goes."""
    world.bed.seen.clear()
    came = world.do(payload(NUMBERS["lifecycle.self-id"], (), b"", realloc))
    if REALLOCS[realloc]:
        assert came == "handler-crashed"
        (gone,) = world.bed.events(ActorExited)
        assert gone.reason.startswith(REALLOCS[realloc])
    assert faults(world.bed) == []


# -- deeds besides imports ---------------------------------------------------------------------------------

OK_TEXT = (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
DEEDS: list[tuple[str, str, str, str]] = [
    ("result far away", deed(Deed.RETURN_POINTER, 2**31 - 4), "handler-crashed", "crashed(trap"),
    ("result nowhere", deed(Deed.RETURN_POINTER, 2**32 - 4), "handler-crashed", "crashed(trap"),
    ("result misaligned", deed(Deed.RETURN_POINTER, SCRATCH + 1), "handler-crashed", "crashed(trap"),
    ("no such result", deed(Deed.RETURN_SCRATCH, scratch=b"\x07"), "handler-crashed", "crashed(trap"),
    ("no such option", deed(Deed.RETURN_SCRATCH, scratch=b"\0\0\0\0\x09"), "handler-crashed", "crashed(trap"),
    ("no such failure", deed(Deed.RETURN_SCRATCH, scratch=b"\1\0\0\0\x63"), "handler-crashed", "crashed(trap"),
    (
        "a reply of four gigabytes",
        deed(Deed.RETURN_SCRATCH, scratch=OK_TEXT + b"\0\0\0\0\xff\xff\xff\xff"),
        "handler-crashed",
        "crashed(trap",
    ),
    (
        "a reply that is no text",
        deed(Deed.RETURN_SCRATCH, scratch=OK_TEXT + (SCRATCH + 16).to_bytes(4, "little") + b"\2\0\0\0\xff\xff"),
        "handler-crashed",
        "crashed(trap",
    ),
    ("a reply that is too long", deed(Deed.LONG_REPLY, 20 << 20), "limit-exceeded", ""),
    ("a crash of megabytes", deed(Deed.LONG_FAILURE, 20 << 20, 1), "handler-crashed", "crashed("),
    ("a refusal of megabytes", deed(Deed.LONG_FAILURE, 20 << 20, 0), "handler-refused", ""),
    ("endless loop", deed(Deed.LOOP), "handler-crashed", "limit(cpu)"),
    ("endless recursion", deed(Deed.RECURSE), "handler-crashed", "limit(stack)"),
    ("all memory", deed(Deed.GROW_MEMORY), "handler-crashed", "crashed(trap"),
    ("all tables", deed(Deed.GROW_TABLE), "handler-crashed", "crashed(trap"),
    ("unreachable", deed(Deed.UNREACHABLE), "handler-crashed", "crashed(trap"),
    ("division by zero", deed(Deed.DIVIDE, 0), "handler-crashed", "crashed(trap"),
    ("load from nowhere", deed(Deed.LOAD, 2**32 - 2), "handler-crashed", "crashed(trap"),
    ("a call of nothing", deed(Deed.CALL_NOTHING), "handler-crashed", "crashed(trap"),
    ("not a number", deed(Deed.NOT_A_NUMBER), "handler-crashed", "crashed(trap"),
]


@pytest.mark.parametrize(("text", "code", "reason"), [row[1:] for row in DEEDS], ids=[row[0] for row in DEEDS])
def test_a_deed_ends_its_own_actor_with_its_reason(world: World, text: str, code: str, reason: str) -> None:
    world.bed.seen.clear()
    assert world.do(text) == code
    exits = [event.reason for event in world.bed.events(ActorExited)]
    if reason:
        (only,) = exits
        assert only.startswith(reason)
    else:
        assert exits == []
    for event in world.bed.seen:
        # Logs, journals and answers are made of events.
        assert len(repr(event)) < 200_000
    assert faults(world.bed) == []
    world.runner.run(alive(world.bed))


# -- floods ------------------------------------------------------------------------------------------------


def text_words(*texts: bytes) -> tuple[list[int], bytes]:
    words, scratch = [], b""
    for text in texts:
        words += [SCRATCH + len(scratch), len(text)]
        scratch += text
    return words, scratch


def many(name: str, times: int, words: list[int], scratch: bytes) -> str:
    return payload(len(EVERY) + Deed.CALL_MANY_TIMES, [*words, *[0] * (15 - len(words)), times, NUMBERS[name]], scratch)


FLOODS: dict[str, list[bytes | int]] = {
    "messaging.send": [b"wat", b"x", b"{}"],
    "timers.send-after": [10**7, b"x", b"{}"],
    "timers.send-interval": [1, b"x", b"{}"],
    "streams.subscribe": [b"/a", 0, b"x"],
    "tuplespace.subscribe": [b"[1]", b"x"],
    "channels.subscribe": [b"c", b"x"],
    "process-groups.join": [b"g"],
    "process-groups.broadcast": [b"g", b"x", b"{}"],
    "lifecycle.monitor": [b"nobody"],
    "lifecycle.spawn": [b"wat", b"", b"{}", 0, 0],
    "logging.log": [1, b"a line"],
    "keyvalue.list-keys": [b"", b"", 1_000],
    "registry.find": [b"", b"", b"", 1_000],
    "streams.append": [b"/a", b"t", b"{}", b""],
    "channels.send": [b"c", b"t", b"{}", 0, 0, b""],
    "tuplespace.write": [b"[1]", 0, 0],
    "random.random-hex": [65_536],
    "workflow.promise-create": [b"p"],
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_million_calls_end_by_a_limit_and_others_go_on(tmp_path: Path, name: str) -> None:
    words: list[int] = []
    scratch = b""
    for part in FLOODS[name]:
        if isinstance(part, bytes):
            words += [SCRATCH + len(scratch), len(part)]
            scratch += part
        else:
            words.append(part)
    # Time that other processes take away counts as well: a busy machine must not end the neighbour.
    limits = {**LIMITS, "actors_per_tenant_max": 50, "wall_s_per_message_max": 4.0, "cpu_ms_per_message_max": 2_000}
    async with running(tmp_path, **limits) as bed:
        file = wasm(tmp_path)
        await bed.deploy("wat", file, restart="temporary")
        neighbour = Address(Scope("victim", "default"), "wat")
        await bed.node.deploy(neighbour.scope, "wat", file, {})
        flood = asyncio.ensure_future(do(bed, many(name, 1_000_000, words, scratch), 30))
        answered = 0
        while not flood.done() or answered < 20:
            reply = await bed.node.ask(neighbour, "do", payload(NUMBERS["random.random-u64"]), timeout_s=30)
            assert reply.isdigit()
            answered += 1
        assert await flood in ("handler-crashed", "deadline-exceeded")
        reasons = [event.reason for event in bed.events(ActorExited) if event.address == WAT]
        assert reasons[0].startswith(("limit(host-calls)", "limit(cpu)", "limit(wall)"))
        assert faults(bed) == []
        assert bed.node.info(neighbour).restarts == 0


# -- before and after messages -----------------------------------------------------------------------------

FOR_EVER = "(loop $for_ever (br $for_ever))"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"start": FOR_EVER}, "limit(cpu)"),
        ({"start": "unreachable"}, "trap"),
        ({"init": FOR_EVER}, "limit(cpu)"),
        ({"init": "unreachable"}, "trap"),
        ({"describe": "[" * 60_000}, "describe"),
        ({"describe": '{"roles":{"wat":{"handlers":' + '{"a":' * 500 + "1" + "}" * 500 + "}}}"}, "describe"),
        ({"describe": '{"roles":{"' + "a" * 60_000 + '":{"handlers":{}},"b":{"handlers":{}}}}'}, "several"),
    ],
    ids=[
        "start loops",
        "start traps",
        "init loops",
        "init traps",
        "describe is no JSON",
        "describe is deep",
        "long name",
    ],
)
async def test_a_component_that_never_gets_up_is_refused_with_the_reason(
    tmp_path: Path, parts: dict[str, str], reason: str
) -> None:
    async with running(tmp_path, **LIMITS) as bed:
        with pytest.raises(PlexSpacesError) as caught:
            await bed.deploy("wat", wasm(tmp_path, **parts))
        assert reason in f"{caught.value.message} {caught.value.details}"
        assert len(caught.value.message) < 20_000
        assert bed.node.deployments("acme") == []
        assert bed.node.counters()["actors"] == 0
        assert faults(bed) == []
        # The name is free, and the next one gets it.
        await bed.deploy("wat", wasm(tmp_path, "good"))
        assert (await do(bed, payload(NUMBERS["random.random-u64"]))).isdigit()


async def test_a_terminate_that_never_ends_ends_by_its_limit(tmp_path: Path) -> None:
    async with running(tmp_path, **LIMITS) as bed:
        await bed.deploy("wat", wasm(tmp_path, terminate=FOR_EVER))
        assert (await do(bed, payload(NUMBERS["random.random-u64"]))).isdigit()
        await bed.node.undeploy(SCOPE, "wat")
        assert bed.node.counters()["actors"] == 0
        assert faults(bed) == []


async def test_a_state_of_megabytes_stops_an_upgrade_and_not_the_actor(tmp_path: Path) -> None:
    async with running(tmp_path, **LIMITS) as bed:
        await bed.deploy("wat", wasm(tmp_path))
        assert await do(bed, deed(Deed.STATE, 20 << 20, 0)) == "0"
        with pytest.raises(LimitExceeded, match="state_bytes_max"):
            await bed.deploy("wat", wasm(tmp_path, "other", terminate="(nop)"))
        assert (await do(bed, payload(NUMBERS["random.random-u64"]))).isdigit()
        assert bed.events(ActorExited) == []
        assert [each.version for each in bed.node.deployments("acme")] == [1]
        assert faults(bed) == []


async def test_an_actor_that_never_gives_its_state_dies_of_that_and_comes_back_as_the_new_version(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, **LIMITS) as bed:
        await bed.deploy("wat", wasm(tmp_path))
        assert await do(bed, deed(Deed.STATE, 2, 1)) == "0"
        await bed.deploy("wat", wasm(tmp_path, "other", terminate="(nop)"))
        assert [event.reason for event in bed.events(ActorExited)] == ["limit(cpu)"]
        assert (await do(bed, payload(NUMBERS["random.random-u64"]))).isdigit()
        assert [each.version for each in bed.node.deployments("acme")] == [2]
        assert faults(bed) == []


# -- all at once -------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Memory of this process that is nobody else's; shared pages of compiled code are not in it."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say")


@asynccontextmanager
async def neighbours(tmp_path: Path, count: int) -> AsyncIterator[tuple[TestBed, Address, list[Address]]]:
    async with running(tmp_path, **LIMITS) as bed:
        file = wasm(tmp_path)
        victim = Address(Scope("victim", "default"), "wat")
        await bed.node.deploy(victim.scope, "wat", file, {})
        attackers = [Address(SCOPE, f"wat{number}") for number in range(count)]
        for each in attackers:
            await bed.deploy(each.type, file, restart="temporary")
        yield bed, victim, attackers


async def test_everything_at_once_beside_a_tenant_that_is_served_and_nothing_is_left(tmp_path: Path) -> None:
    attacks = [row[1] for row in DEEDS] + [
        many(name, 100_000, *text_words(*(part for part in parts if isinstance(part, bytes))))
        for name, parts in FLOODS.items()
        if all(isinstance(part, bytes) for part in parts)
    ]
    async with neighbours(tmp_path, len(attacks)) as (bed, victim, attackers):

        async def attack(address: Address, text: str) -> str:
            try:
                return await bed.node.ask(address, "do", text, timeout_s=30)
            except PlexSpacesError as error:
                if isinstance(error, HandlerCrashed):
                    await bed.node.restart_actor(address)
                return error.code

        async def wave() -> None:
            tasks = [asyncio.ensure_future(attack(*pair)) for pair in zip(attackers, attacks, strict=True)]
            answered = 0
            while answered < 30 or not all(task.done() for task in tasks):
                reply = await bed.node.ask(victim, "do", payload(NUMBERS["random.random-u64"]), timeout_s=30)
                assert reply.isdigit()
                answered += 1
            await asyncio.gather(*tasks)

        await wave()
        tasks_before, instances_before = len(asyncio.all_tasks()), len(bed.node._sandbox.instances)
        gc.collect()
        before = resident_bytes()
        for _ in range(3):
            bed.seen.clear()
            await wave()
        assert faults(bed) == []
        await bed.until(lambda: len(asyncio.all_tasks()) <= tasks_before)
        assert len(bed.node._sandbox.instances) == instances_before
        bed.seen.clear()
        gc.collect()
        grown = resident_bytes() - before
        # Three waves hand out some 300 MB of texts and kill some sixty instances of up to 32 MiB.
        assert grown < 64 << 20, f"{grown >> 20} MiB more than before"
        assert bed.node.info(victim).restarts == 0
