"""Every event has its line, in both forms, and a guest cannot forge one."""

from __future__ import annotations

import io
import json
import typing

import pytest

from plexspaces_runtime import events, logs
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.scope import Address, Scope

SCOPE = Scope("acme", "default")
VALUES = {
    "address": Address(SCOPE, "counter"),
    "scope": SCOPE,
    "orderly": False,
    "names": ("one", "two"),
    "links": ("one", "two"),
    "level": "warn",
    "changes": ("started a", "stopped b"),
}


def example(kind: type[typing.Any]) -> typing.Any:
    hints = typing.get_type_hints(kind)
    made = {int: 3, float: 1.5, str: "text", bool: True}
    return kind(**{name: VALUES.get(name, made.get(type_)) for name, type_ in hints.items()})


@pytest.fixture(name="stream")
def _stream() -> io.StringIO:
    return io.StringIO()


@pytest.mark.parametrize("kind", typing.get_args(events.Event), ids=lambda kind: kind.__name__)
def test_every_event_becomes_one_record_that_says_where(kind: type[typing.Any], stream: io.StringIO) -> None:
    bus = EventBus()
    logs.configure(stream, json=True, level="debug")
    logs.log_events(bus)
    event = example(kind)
    bus.emit(event)
    line = json.loads(stream.getvalue())
    assert line["event"] == kind.__name__
    assert line["message"]
    if hasattr(event, "address"):
        assert line["address"] == "acme/default/counter"


def test_a_person_reads_time_level_actor_and_words(stream: io.StringIO) -> None:
    bus = EventBus()
    logs.configure(stream, json=False, level="info")
    logs.log_events(bus)
    bus.emit(events.GuestLogged(Address(SCOPE, "counter"), "m-1", "warn", "careful"))
    bus.emit(events.GuestLogged(Address(SCOPE, "counter"), "m-1", "debug", "details"))
    assert stream.getvalue()[9:] == "warning acme/default/counter: careful\n"


def test_a_guest_can_neither_forge_a_line_nor_command_the_terminal(stream: io.StringIO) -> None:
    bus = EventBus()
    logs.configure(stream, json=False, level="info")
    logs.log_events(bus)
    bus.emit(events.GuestLogged(Address(SCOPE, "evil"), "m-1", "info", "x\n12:00:00 error root: all is lost\x1b[2J\r"))
    first, second = stream.getvalue().splitlines()
    assert first.endswith("acme/default/evil: x")
    assert second == "    12:00:00 error root: all is lost\\x1b[2J\\r"


def test_a_subscription_ends(stream: io.StringIO) -> None:
    bus = EventBus()
    logs.configure(stream, json=True, level="info")
    logs.log_events(bus)()
    bus.emit(events.NodeStarted())
    assert stream.getvalue() == ""
