"""A guest in plain Python: a script per export, which may ask the host, burn CPU, fail or trap.

It keeps the promises of `actors.guest.Guest`, and asserts those the runtime owes it: one call at a time, no entry after
a trap, no poll while an answer is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.actor import Actor, ActorSpec
from plexspaces_runtime.actors.asks import Asks
from plexspaces_runtime.actors.envelope import Envelope, Kind, Outcome, PendingAsk
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.actors.guest import Export, HostRequest, Poll, Result, Trapped
from plexspaces_runtime.actors.registry import Registry
from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import Limits
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

    def enter(self) -> None: ...

    def leave(self) -> None: ...

    def offloading(self, active: bool) -> None: ...


_FUNCTIONS = {
    ("messaging", "ask"): True,
    ("messaging", "ask-many"): False,
    ("messaging", "send"): True,
    ("messaging", "reply"): True,
    ("lifecycle", "self-id"): False,
    ("lifecycle", "stop"): True,
    ("clock", "now-ns"): False,
    ("clock", "sleep-ns"): False,
    ("logging", "log"): False,
    ("keyvalue", "get"): True,
    ("workflow", "cancelled"): False,
}


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
        host = Host(
            functions=_FUNCTIONS,
            registry=self.registry,
            asks=self.asks,
            clock=self.clock,
            ids=SeededIds(),
            events=self.events,
            loop=loop,
        )
        self.scheduler = host.scheduler = Scheduler(
            clock=self.clock,
            limits=self.limits,
            events=self.events,
            asks=self.asks,
            ticker=StillTicker(),
            serve=host.serve,
            set_wall_alarm=lambda delay_s: loop.call_later(delay_s, self.scheduler.ring_walls),
        )
        self.exits: dict[str, Exit] = {}
        self.guests: dict[str, ScriptedGuest] = {}
        self._count = 0

    def _exited(self, actor: Actor, exit_: Exit) -> None:
        self.registry.remove(actor)
        self.exits[actor.address.text] = exit_

    def spec(self, **scripts: Script) -> ActorSpec:
        table = {Export(name.replace("_", "-")): script for name, script in scripts.items()}
        return ActorSpec(new_guest=lambda: ScriptedGuest(table), component_hash="0" * 64, limits=self.limits)

    async def start(self, name: str, state: str | None = None, **scripts: Script) -> Actor:
        """A ready actor called `name`."""
        actor = Actor(Address.parse(SCOPE, name), self.spec(**scripts), self._exited, started_ms=0)
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
