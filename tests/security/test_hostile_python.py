"""Python guests that call everything with anything: through the SDK's functions, and past them at the bindings."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.errors import PlexSpacesError
from plexspaces_runtime.events import FacetFault, HostFault, NodeFault, StorageFault
from plexspaces_runtime.scope import Address
from plexspaces_runtime.wasm import wit
from tests.nodes import SCOPE, TestBed, running
from tests.security.fuzzing import FACTOR, check_named

pytestmark = pytest.mark.guest

FAULTS = (HostFault, NodeFault, FacetFault, StorageFault)
LIMITS = {"wall_s_per_message_max": 2.0, "ask_timeout_ms": 50, "cpu_ms_per_message_max": 5_000}
# Ends of an actor that it asked for itself, or that its own language brings about.
ENDS = ("handler-crashed", "actor-exited", "deadline-exceeded", "actor-not-found")


def faults(bed: TestBed) -> list[Any]:
    return [event for event in bed.seen if isinstance(event, FAULTS)]


async def attack(bed: TestBed, address: Address, op: str, arguments: str) -> dict[str, Any]:
    """What came of it; where it was the actor's end, the actor is there again."""
    try:
        found: dict[str, Any] = json.loads(await bed.node.ask(address, op, arguments, timeout_s=20))
    except PlexSpacesError as error:
        check_named(error)
        if error.code in ENDS:
            await bed.node.restart_actor(address)
        return {"ended": error.code}
    return found


# -- the SDK's functions -----------------------------------------------------------------------------------


async def test_every_function_of_the_sdk_with_anything(guest: Callable[[str], Path], tmp_path: Path) -> None:
    async with running(tmp_path, **LIMITS) as bed:
        await bed.deploy("attacker", guest("hostile"), restart="temporary")
        attacker = Address(SCOPE, "attacker")
        known = await bed.ask(attacker, "names")
        assert len(known["functions"]) > 40
        outcomes: dict[str, int] = {}
        for at, (function, arity) in enumerate(known["functions"].items()):
            for number, name in enumerate(known["nasty"]):
                # Some of all pairs, others for each function; all of them where there is time.
                if FACTOR == 1 and (at + number) % 13:
                    continue
                arguments = json.dumps({"function": function, "nasty": [name] * arity})
                came = await attack(bed, attacker, "attack", arguments)
                kind = came.get("ended") or came.get("code") or came.get("error") or "value"
                outcomes[kind] = outcomes.get(kind, 0) + 1
                assert kind != "internal", (function, name)
                assert faults(bed) == [], (function, name)
        # Errors that Python code can catch, most of them.
        assert outcomes["TypeError"] + outcomes["invalid-argument"] > 20, outcomes
        assert await bed.ask(attacker, "again") >= 0


# -- the bindings ------------------------------------------------------------------------------------------

TEXTS = (
    '""',
    '"a"',
    '"../x"',
    '"\\ud800"',
    '"a\\u0000b"',
    '"victim/default/actor"',
    '"{"',
    '"/a"',
    json.dumps("x" * 1_500_000),
)
WHOLES = ("0", "1", "-1", str(2**31), str(2**63), str(2**64 - 1), str(2**64), str(10**30), "1.5", "null", '"1"', "true")


def _values(type_: wit.Type) -> list[str]:
    """JSON of arguments for the prober: of the type, nearly of it, and of none."""
    match type_:
        case wit.Primitive("string"):
            return [*TEXTS, "5", "null"]
        case wit.Primitive("bool"):
            return ["true", "false", "5", "null"]
        case wit.Primitive():
            return list(WHOLES)
        case wit.Option(of):
            return ["null", *_values(of)]
        case wit.List(of):
            inner = _values(of)
            return ["[]", f"[{','.join(inner[:3])}]", f"[{','.join([inner[0]] * 1_001)}]", "null"]
        case wit.Record(name, fields):
            cls = "".join(part.capitalize() for part in name.split("-"))
            columns = [_values(each) for _, each in fields]
            rows = [[column[(row + 1) % len(column)] for column in columns] for row in range(max(map(len, columns)))]
            made = []
            for row in rows:
                members = ",".join(
                    f'"{field.replace("-", "_")}":{value}' for (field, _), value in zip(fields, row, strict=True)
                )
                made.append(f'{{"$record":"{cls}","fields":{{{members}}}}}')
            return made
        case wit.Enum(name, cases):
            cls = "".join(part.capitalize() for part in name.split("-"))
            return [f'{{"$enum":"{cls}","case":"{case.upper().replace("-", "_")}"}}' for case in cases] + ["5", "null"]
    return ["null"]


def _calls(function: wit.Function) -> Iterator[str]:
    columns = [_values(type_) for _, type_ in function.params]
    for row in range(max((len(column) for column in columns), default=1)):
        yield f"[{','.join(column[row % len(column)] for column in columns)}]"
    # Each at its worst while the others are as they should be.
    for number, column in enumerate(columns):
        for value in column:
            others = [each[min(1, len(each) - 1)] for each in columns]
            others[number] = value
            yield f"[{','.join(others)}]"


async def test_every_function_of_the_contract_with_anything(guest: Callable[[str], Path], tmp_path: Path) -> None:
    package = wit.load()
    async with running(tmp_path, **LIMITS) as bed:
        await bed.deploy("prober", guest("prober"), restart="temporary")
        prober = Address(SCOPE, "prober")
        called = 0
        for interface, function in itertools.chain.from_iterable(
            ((each.name, function) for function in each.functions.values()) for each in package.interfaces.values()
        ):
            if (interface, function.name) == ("clock", "sleep-ns"):
                continue
            for arguments in _calls(function):
                text = (
                    f'{{"interface":"{interface.replace("-", "_")}","function":"{function.name.replace("-", "_")}",'
                    f'"arguments":{arguments}}}'
                )
                if len(text) > 3_000_000:
                    continue
                came = await attack(bed, prober, "call", text)
                called += 1
                if "error" in came:
                    assert came["error"]["code"] != "INTERNAL", (interface, function.name, arguments[:300], came)
                    assert len(came["error"]["message"]) < 20_000
                assert faults(bed) == [], (interface, function.name, arguments[:300])
        assert called > 800
        assert await bed.ask(prober, "told") is not None


async def test_ids_of_others_open_nothing(guest: Callable[[str], Path], tmp_path: Path) -> None:
    """Timers, subscriptions, monitors, messages and leases are their owner's, whoever else knows their names."""
    async with running(tmp_path) as bed:
        for name in ("owner", "thief"):
            await bed.deploy(name, guest("prober"))

        async def call(who: str, interface: str, function: str, *arguments: Any) -> Any:
            return await bed.ask(who, "call", interface=interface, function=function, arguments=list(arguments))

        async def made(interface: str, function: str, *arguments: Any) -> Any:
            return (await call("owner", interface, function, *arguments))["value"]

        timer = await made("timers", "send_after", 3_600_000, "note", "{}")
        stream = await made("streams", "subscribe", "/s", 0, "note")
        pattern = await made("tuplespace", "subscribe", '["t"]', "note")
        channel = await made("channels", "subscribe", "c", "note")
        lease = await made("locks", "acquire", "l", 60_000, 0)
        monitor = await made("lifecycle", "monitor", "thief")
        options = {"$record": "SendOptions", "fields": {"delay_ms": 0, "ttl_ms": 0, "dedup_id": ""}}
        await call("owner", "channels", "send", "pulled", "t", "1", options)
        message = (await made("channels", "receive", "pulled", 0, 60_000))["id"]

        assert (await call("thief", "timers", "cancel", timer)) == {"value": False}
        assert (await call("thief", "streams", "unsubscribe", stream)) == {"value": False}
        assert (await call("thief", "tuplespace", "unsubscribe", pattern)) == {"value": False}
        assert (await call("thief", "channels", "unsubscribe", channel)) == {"value": False}
        await call("thief", "lifecycle", "demonitor", monitor)
        for function, more in (("ack", ()), ("extend", (1_000,)), ("nack", (True, 0))):
            came = await call("thief", "channels", function, "pulled", message, *more)
            assert came["error"]["code"] == "NOT_FOUND", (function, came)
        # A lease is whoever's has its id; a guessed one is nobody's.
        for lock_id in ("", "lock-1", lease["lock_id"][:-1], lease["lock_id"] + "0"):
            came = await call("thief", "locks", "renew", "l", lock_id, 60_000)
            assert came["error"]["code"] in ("NOT_FOUND", "CONFLICT"), (lock_id, came)
            assert (await call("thief", "locks", "release", "l", lock_id)).get("value") is not True

        # All of it is still there.
        assert (await made("timers", "cancel", timer)) is True
        assert (await made("streams", "unsubscribe", stream)) is True
        assert (await made("tuplespace", "unsubscribe", pattern)) is True
        assert (await made("channels", "unsubscribe", channel)) is True
        assert "value" in await call("owner", "channels", "ack", "pulled", message)
        assert "value" in await call("owner", "locks", "renew", "l", lease["lock_id"], 60_000)
        await bed.node.stop_actor(Address(SCOPE, "thief"), kill=True)
        await bed.until(lambda: True)
        told = await bed.ask("owner", "told")
        assert [payload["monitor_ref"] for op, payload in told if op == "DOWN"] == [monitor]


async def test_a_reply_to_somebody_elses_question_reaches_nobody(guest: Callable[[str], Path], tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        for name in ("owner", "thief"):
            await bed.deploy(name, guest("prober"))
        asked = asyncio.ensure_future(bed.ask("owner", "defer"))
        owner = bed.node._registry.find(SCOPE, "owner")
        assert owner is not None
        await bed.until(lambda: bool(owner.deferred))
        (message_id,) = owner.deferred
        arguments = [message_id, '"stolen"']
        came = await bed.ask("thief", "call", interface="messaging", function="reply", arguments=arguments)
        assert came["error"]["code"] == "NOT_FOUND"
        arguments = [message_id, '"mine"']
        came = await bed.ask("owner", "call", interface="messaging", function="reply", arguments=arguments)
        assert came == {"value": None}
        assert await asked == "mine"
