"""A guest in plain Python: a script per export, which may ask the host, burn CPU, fail or trap.

It keeps the promises of `actors.guest.Guest`, and asserts those the runtime owes it: one call at a time, no entry after
a trap, no poll while an answer is missing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import orjson

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.actor import Actor, ActorSpec
from plexspaces_runtime.actors.asks import Asks
from plexspaces_runtime.actors.capabilities import Grants
from plexspaces_runtime.actors.envelope import Envelope, Kind, Outcome, PendingAsk
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.actors.facets import Facets
from plexspaces_runtime.actors.guest import Export, Failure, HostRequest, Poll, Result, Trapped
from plexspaces_runtime.actors.registry import Registry
from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import ActorExited, ActorNotFound, HandlerCrashed, PlexSpacesError
from plexspaces_runtime.events import Event, EventBus
from plexspaces_runtime.host import Host
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.scheduler import Scheduler
from plexspaces_runtime.scope import Address, Scope

# What a script yields to be preempted.
BURN = object()

Script = Callable[..., Generator[Any, Any, Any]]
SCOPE = Scope("acme", "default")


def call(interface: str, function: str, *arguments: Any) -> HostRequest:
    """A host call, to be yielded by a script; it evaluates to the answer."""
    return HostRequest(interface, function, arguments)


def returns(value: Any = None) -> Script:
    """A script that only returns."""

    def script(*_arguments: Any) -> Generator[Any, Any, Any]:
        return value
        yield

    return script


class ScriptedGuest:
    """Runs a script per export; exports without one return nothing."""

    def __init__(self, scripts: dict[Export, Script]) -> None:
        self._scripts = scripts
        self._running: Generator[Any, Any, Any] | None = None
        self._answer: Any = None
        self._owed = False
        self._result: Result = None
        self.request: HostRequest | None = None
        self.dead = False
        self.closed = False

    def begin(self, export: Export, *arguments: Any) -> None:
        assert self._running is None, "two calls at once"
        assert not self.dead, "a trapped instance was entered"
        assert not self.closed, "a closed instance was entered"
        self._running = self._scripts.get(export, returns())(*arguments)

    def poll(self) -> Poll:
        assert self._running is not None
        assert not self._owed, "polled while an answer is missing"
        if self.dead:
            return Poll.DONE
        self.request = None
        try:
            wanted = self._running.send(self._answer)
        except StopIteration as finished:
            self._result = finished.value
            return Poll.DONE
        finally:
            self._answer = None
        if wanted is BURN:
            return Poll.PREEMPTED
        self.request = wanted
        self._owed = True
        return Poll.REQUEST

    def answer(self, value: Any) -> None:
        assert self._owed
        self._owed = False
        self._answer = value

    def trap(self, message: str) -> None:
        self._owed = False
        self.dead = True
        self._result = Trapped(_trap(message))

    def take_result(self) -> Result:
        self._running = None
        if isinstance(self._result, Trapped):
            self.dead = True
        return self._result

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        if self._running is not None:
            self._running.close()


def _trap(message: str) -> Exit:
    return exits.crashed("trap", message)


class StillTicker:
    """Scripts preempt themselves: no epoch is needed."""

    shared = False

    def enter(self) -> None: ...

    def leave(self) -> None: ...

    def offloading(self, active: bool) -> None: ...

    def sharing(self, active: bool) -> None:
        self.shared = active


_FUNCTIONS = {
    ("messaging", "ask"): True,
    ("messaging", "ask-many"): False,
    ("messaging", "send"): True,
    ("messaging", "reply"): True,
    ("lifecycle", "self-id"): False,
    ("lifecycle", "spawn"): True,
    ("lifecycle", "stop"): True,
    ("lifecycle", "link"): True,
    ("lifecycle", "unlink"): True,
    ("lifecycle", "monitor"): True,
    ("lifecycle", "demonitor"): True,
    ("lifecycle", "trap-exit"): False,
    ("timers", "send-after"): True,
    ("timers", "send-interval"): True,
    ("timers", "cancel"): False,
    ("process-groups", "join"): True,
    ("process-groups", "leave"): True,
    ("process-groups", "members"): True,
    ("process-groups", "first"): True,
    ("process-groups", "broadcast"): True,
    ("registry", "find"): True,
    ("registry", "set-label"): True,
    ("clock", "now-ns"): False,
    ("clock", "sleep-ns"): False,
    ("logging", "log"): False,
    ("keyvalue", "get"): True,
    ("streams", "append"): True,
    ("streams", "read"): True,
    ("streams", "subscribe"): True,
    ("streams", "unsubscribe"): True,
    ("blobs", "put"): True,
    ("blobs", "get"): True,
    ("blobs", "get-range"): True,
    ("blobs", "stat"): True,
    ("blobs", "delete"): True,
    ("blobs", "list-blobs"): True,
    ("tuplespace", "write"): True,
    ("tuplespace", "read"): True,
    ("tuplespace", "take"): True,
    ("tuplespace", "read-all"): True,
    ("tuplespace", "take-all"): True,
    ("tuplespace", "count"): True,
    ("tuplespace", "subscribe"): True,
    ("tuplespace", "unsubscribe"): True,
    ("channels", "send"): True,
    ("channels", "receive"): True,
    ("channels", "ack"): True,
    ("channels", "nack"): True,
    ("channels", "extend"): True,
    ("channels", "depth"): True,
    ("channels", "subscribe"): True,
    ("channels", "unsubscribe"): True,
    ("workflow", "cancelled"): False,
    ("http", "fetch"): True,
    ("http", "fetch-stream"): True,
    ("http", "read-chunk"): True,
    ("http", "close"): True,
    # Declared, and served by nobody.
    ("registry", "nothing"): False,
}


class Puppet:
    """The scripts of an actor that does what a test tells it, and keeps what it hears.

    One puppet serves all incarnations of its actor, as a class does.
    """

    def __init__(self) -> None:
        # What came without being asked for: operation and payload.
        self.heard: list[tuple[str, Any]] = []
        self.envelopes: list[tuple[str, ...]] = []
        self.todo: dict[str, tuple[HostRequest, ...]] = {}
        self.done: dict[str, list[Any]] = {}
        self.init_does: tuple[HostRequest, ...] = ()
        self.answer: Any = None
        self.init_fails = False

    def init(self, *_: Any) -> Any:
        for request in self.init_does:
            # Not `yield from`: a tuple takes no answers.
            self.answer = yield request
        return Failure(True, "ValueError", "ValueError: told to fail", "{}", "") if self.init_fails else None

    def handle(self, message_id: str, kind: str, op: str, payload: str, sender: str, context: str) -> Any:
        if op == "crash":
            return Failure(True, "RuntimeError", "RuntimeError: " + orjson.loads(payload), "{}", "a traceback")
        if op == "do":
            answers = self.done[payload] = []
            for request in self.todo.pop(payload):
                answers.append((yield request))
            return payload
        self.heard.append((op, orjson.loads(payload)))
        self.envelopes.append((message_id, kind, op, payload, sender, context))
        return None


class Bench:
    """Scheduler, asks, registry and host, joined as a node joins them, with scripted guests."""

    def __init__(self, **limits: Any) -> None:
        loop = asyncio.get_running_loop()
        self.limits = Limits(**limits)
        self.clock = SystemClock()
        self.events = EventBus()
        self.seen: list[Event] = []
        self.events.subscribe(self.seen.append)
        self.registry = Registry(self.limits.actors_per_tenant_max)
        self.asks = Asks(self.clock, lambda delay_s: loop.call_later(delay_s, self.asks.ring))
        host = self.host = Host(
            functions=_FUNCTIONS,
            registry=self.registry,
            asks=self.asks,
            clock=self.clock,
            ids=SeededIds(),
            events=self.events,
            loop=loop,
        )
        self.ticker = StillTicker()
        self.scheduler = host.scheduler = Scheduler(
            clock=self.clock,
            limits=self.limits,
            events=self.events,
            asks=self.asks,
            ticker=self.ticker,
            serve=host.serve,
            release=host.release,
            set_wall_alarm=lambda delay_s: loop.call_later(delay_s, self.scheduler.ring_walls),
        )
        host.spawner = self
        self.exits: dict[str, Exit] = {}
        self.guests: dict[str, ScriptedGuest] = {}
        self.actors: dict[str, Actor] = {}
        self.puppets: dict[str, Puppet] = {}
        # What can be spawned.
        self.types: dict[str, Puppet] = {}
        # Called at each exit, as a supervisor is.
        self.supervise: Callable[[Actor, Exit], None] = lambda _actor, _exit: None
        self._count = 0
        self._keys = itertools.count(1)

    def _exited(self, actor: Actor, exit_: Exit) -> None:
        self.exits[actor.address.text] = exit_
        if self.actors.get(actor.address.text) is actor:
            del self.actors[actor.address.text]
        self.supervise(actor, exit_)

    # -- puppets ------------------------------------------------------------------------------------------

    def puppet_spec(self, puppet: Puppet, **of_spec: Any) -> ActorSpec:
        return replace(self.spec(init=puppet.init, handle=puppet.handle), **of_spec)

    async def puppet(self, name: str, *, trap: bool = False, **of_spec: Any) -> Actor:
        """A ready actor that does what it is told."""
        puppet = self.puppets[name] = Puppet()
        return await self._begin(name, puppet, trap=trap, **of_spec)

    async def restart(self, name: str, dead: Actor) -> Actor:
        """The successor of a dead puppet: same name, same mailbox."""
        return await self._begin(name, self.puppets[name], mailbox=dead.mailbox)

    async def _begin(
        self, name: str, puppet: Puppet, *, trap: bool = False, mailbox: Any = None, **of_spec: Any
    ) -> Actor:
        spec = self.puppet_spec(puppet, **of_spec)
        actor = Actor(Address.parse(SCOPE, name), spec, self._exited, started_ms=0, mailbox=mailbox)
        self.registry.add(actor)
        self.actors[name] = actor
        done: asyncio.Future[Exit | None] = asyncio.get_running_loop().create_future()
        self.scheduler.start(actor, None, done.set_result)
        assert await done is None
        if trap:
            assert await self.do(name, call("lifecycle", "trap-exit", True)) is False
        return actor

    def begin(self, name: str, *requests: HostRequest) -> asyncio.Future[Outcome]:
        """Tell a puppet to call the host."""
        actor = self.actors[name]
        key = str(next(self._keys))
        self.puppets[name].todo[key] = requests
        return self.post(actor, "do", key)

    async def do(self, name: str, *requests: HostRequest) -> Any:
        """What the last of a puppet's host calls gave."""
        puppet, outcome = self.puppets[name], await self.begin(name, *requests)
        if isinstance(outcome, Exception):
            raise outcome
        return puppet.done.pop(outcome)[-1]

    async def crash(self, name: str, text: str = "as told") -> None:
        """Let a puppet's handler raise."""
        outcome = await self.post(self.actors[name], "crash", orjson.dumps(text).decode())
        assert isinstance(outcome, HandlerCrashed)
        await self.settle()

    async def kill(self, *names: str) -> None:
        """End actors at once, and let what follows happen."""
        for name in names:
            self.scheduler.kill(self.actors[name])
        await self.settle()

    async def settle(self) -> None:
        """Let everything run that can."""
        while self.scheduler.ready:
            await asyncio.sleep(0)

    def heard(self, name: str) -> list[tuple[str, Any]]:
        """What a puppet heard since the last time it was asked for."""
        puppet = self.puppets[name]
        heard, puppet.heard = puppet.heard, []
        return heard

    def spawn_from(
        self,
        parent: Actor,
        actor_type: str,
        key: str,
        args: str,
        capabilities: Grants,
        created: Callable[[Actor], None],
        done: Callable[[PlexSpacesError | None], None],
    ) -> Address:
        """The node's part of a spawn; see `host.lifecycle.Spawner`."""
        if actor_type not in self.types:
            raise ActorNotFound(f"no type {actor_type!r}")
        puppet = self.types[actor_type]
        address = Address.parse(parent.address.scope, f"{actor_type}/{key or next(self._keys)}")
        spec = self.puppet_spec(puppet, capabilities=capabilities)
        actor = Actor(address, replace(spec, args=args), self._exited, started_ms=0)
        self.registry.add(actor)
        self.actors[address.text] = actor
        self.puppets[address.text] = puppet
        created(actor)
        if actor.alive:
            self.scheduler.start(
                actor, None, lambda failed: done(None if failed is None else HandlerCrashed(failed.text))
            )
        else:
            done(ActorExited("ended before it began"))
        return address

    # -- scripts of one's own -----------------------------------------------------------------------------

    def spec(self, **scripts: Script) -> ActorSpec:
        table = {Export(name.replace("_", "-")): script for name, script in scripts.items()}
        return ActorSpec(new_guest=lambda: ScriptedGuest(table), component_hash="0" * 64, limits=self.limits)

    async def start(
        self, name: str, state: str | None = None, facets: Facets | None = None, scope: Scope = SCOPE, **scripts: Script
    ) -> Actor:
        """A ready actor called `name`."""
        spec = self.spec(**scripts)
        actor = Actor(Address.parse(scope, name), spec, self._exited, started_ms=0, facets=facets)
        self.registry.add(actor)
        done: asyncio.Future[Exit | None] = asyncio.get_running_loop().create_future()
        self.scheduler.start(actor, state, done.set_result)
        failed = await done
        assert failed is None, failed
        self.guests[name] = actor.guest  # type: ignore[assignment]
        return actor

    async def ask_directly(self, actor: Actor, op: str = "op") -> Outcome:
        """As a caller from outside does."""
        return await self.post(actor, op, directly=True)

    def post(
        self, actor: Actor, op: str = "op", payload: str = "{}", timeout_s: float = 5.0, *, directly: bool = False
    ) -> asyncio.Future[Outcome]:
        """Deliver a call; the future holds its outcome, errors too."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._count += 1
        message_id = f"t-{self._count}"
        deadline_ns = self.clock.monotonic_ns() + int(timeout_s * 1e9)
        pending: PendingAsk = self.asks.open(message_id, actor.address, None, deadline_ns, future.set_result)
        envelope = Envelope(message_id, Kind.CALL, op, payload, deadline_ns=deadline_ns, pending=pending)
        deliver = self.scheduler.deliver_and_run if directly else self.scheduler.deliver
        assert deliver(actor, envelope)
        return future

    async def ask(self, actor: Actor, op: str = "op", payload: str = "{}", timeout_s: float = 5.0) -> Outcome:
        return await self.post(actor, op, payload, timeout_s)

    def cast(self, actor: Actor, op: str = "op") -> bool:
        self._count += 1
        return self.scheduler.deliver(actor, Envelope(f"t-{self._count}", Kind.CAST, op, "{}"))
