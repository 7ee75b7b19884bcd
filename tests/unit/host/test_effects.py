"""Which host calls are told of where effects are audited: every function of the contract has chosen."""

from __future__ import annotations

from plexspaces_runtime.actors.actor import Actor, ActorSpec
from plexspaces_runtime.actors.envelope import Envelope, Kind
from plexspaces_runtime.actors.guest import HostRequest
from plexspaces_runtime.config import Limits
from plexspaces_runtime.host.effects import EFFECTS, effect
from plexspaces_runtime.scope import Address, Caller
from plexspaces_runtime.wasm.wit import load
from tests.unit.scripted import SCOPE, ScriptedGuest

# They look, wait, write the log, or change nothing but the actor itself.
QUIET = {
    "blobs": {"get", "get-range", "stat", "list-blobs"},
    "channels": {"depth", "subscribe", "unsubscribe"},
    "clock": {"now-ns", "monotonic-ns", "sleep-ns"},
    "http": {"read-chunk", "close"},
    "keyvalue": {"get", "list-keys"},
    "lifecycle": {"self-id", "unlink", "monitor", "demonitor", "trap-exit"},
    "logging": {"log"},
    "process-groups": {"members", "first"},
    "random": {"random-hex", "random-u64"},
    "registry": {"find"},
    "streams": {"read", "subscribe", "unsubscribe"},
    "timers": {"send-after", "send-interval", "cancel"},
    "tuplespace": {"read", "read-all", "count", "subscribe", "unsubscribe"},
    "workflow": {
        *("step-begin", "step-succeeded", "step-failed", "sleep-ms", "promise-await", "next-signal", "cancelled"),
        "publish-state",
    },
}


def actor(current: Envelope | None = None, spawner: Actor | None = None) -> Actor:
    made = Actor(
        Address(SCOPE, "orders"), ActorSpec(lambda: ScriptedGuest({}), "", Limits()), lambda *_: None, started_ms=0
    )
    made.current, made.spawner = current, spawner
    return made


def test_every_function_has_chosen() -> None:
    package = load()
    declared = {name: set(each.functions) for name, each in package.interfaces.items() if each.functions}
    chosen = {name: set(EFFECTS.get(name, ())) | QUIET.get(name, set()) for name in {*EFFECTS, *QUIET}}
    assert chosen == declared
    assert not any(EFFECTS.get(name, frozenset()) & QUIET.get(name, set()) for name in chosen)


def test_an_effect_names_what_it_was_done_to_and_who_is_answerable() -> None:
    cause = Envelope("m-2", Kind.CALL, "pay", "{}", caller=Caller("olga"), causation_id="m-1")
    told = effect(actor(cause), HostRequest("keyvalue", "put", ("order", "{}", None)))
    assert told is not None
    assert (told.name, told.message_id, told.causation_id, told.subject) == ("order", "m-2", "m-1", "olga")
    record = effect(actor(cause), HostRequest("http", "fetch", (("bank", "POST", "/pay"),)))
    assert record is not None
    assert record.name == "bank"
    long = effect(actor(cause), HostRequest("keyvalue", "put", ("x" * 1_000,)))
    assert long is not None
    assert len(long.name) == 256


def test_what_is_secret_or_has_no_name_is_not_told() -> None:
    for interface, function in (("http", "register-credential"), ("tuplespace", "write"), ("messaging", "reply")):
        told = effect(actor(), HostRequest(interface, function, ("phantom-1", "s3cret", [])))
        assert told is not None
        assert (told.name, told.subject, told.message_id) == ("", "", "")


def test_looking_is_no_effect() -> None:
    assert effect(actor(), HostRequest("keyvalue", "get", ("order",))) is None
    assert effect(actor(), HostRequest("nowhere", "put", ())) is None


def test_an_actor_that_starts_acts_for_who_had_it_spawned_however_far_up_that_is() -> None:
    cause = Envelope("m-2", Kind.CALL, "pay", "{}", caller=Caller("olga"))
    child = actor(spawner=actor(spawner=actor(cause)))
    assert child.cause is cause
    assert actor(spawner=actor()).cause is None
    own = Envelope("m-3", Kind.CALL, "x", "{}")
    assert actor(own, actor(cause)).cause is own
