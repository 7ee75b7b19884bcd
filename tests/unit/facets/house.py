"""A tenant's house of virtual actors: scheduler and residents as a node joins them, with scripted guests and a clock in
the hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from plexspaces_runtime.actors.actor import Actor, ActorSpec, Deactivate
from plexspaces_runtime.actors.envelope import Outcome
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.actors.guest import Export, Failure
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.durability.durability import Durability
from plexspaces_runtime.errors import LimitExceeded
from plexspaces_runtime.facets.kind import Chain
from plexspaces_runtime.facets.virtual_actor import MemoryStates, Residency, Residents, VirtualActorConfig
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores import journal
from plexspaces_runtime.stores.database import MemoryDatabase
from plexspaces_runtime.stores.journal import JournalTable
from tests.unit.scripted import BURN, SCOPE, Bench, ScriptedGuest, call


class Alarm:
    """One alarm, as a node has it: setting it again replaces it."""

    def __init__(self, clock: ManualClock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self.due_ns: int | None = None
        self.settings = 0

    def set(self, delay_s: float) -> None:
        self.settings += 1
        self.due_ns = self._clock.monotonic_ns() + round(delay_s * 1e9)
        if delay_s == 0:
            asyncio.get_running_loop().call_soon(self.look)

    def look(self) -> None:
        if self.due_ns is not None and self.due_ns <= self._clock.monotonic_ns():
            self.due_ns = None
            self._ring()

    @property
    def pending(self) -> bool:
        return self.due_ns is not None and self.due_ns <= self._clock.monotonic_ns()


@dataclass
class Guests:
    """What the instances of all incarnations do and suffer together."""

    open: int = 0
    open_most: int = 0
    state_reads: int = 0
    # Names whose state cannot be read.
    state_fails: frozenset[str] = frozenset()
    init_fails: Failure | None = None
    # Such a message, reading a state, or `terminate` goes on for as long as this is set.
    holds_message: bool = False
    holds_state: bool = False
    holds_terminate: bool = False
    # Called in the middle of both.
    meanwhile: Callable[[], None] = lambda: None


class Counter(ScriptedGuest):
    """An instance that adds up what it is sent, and knows its name from its state alone."""

    def __init__(self, guests: Guests, diary: list[tuple[str, str]]) -> None:
        scripts = {
            Export.INIT: self._init,
            Export.HANDLE: self._handle,
            Export.GET_STATE: self._get_state,
            Export.SET_STATE: self._set_state,
            Export.TERMINATE: self._terminate,
        }
        super().__init__(scripts)
        self._guests = guests
        self._diary = diary
        self._total = 0
        guests.open += 1
        guests.open_most = max(guests.open_most, guests.open)

    def _init(self, config: tuple[Any, ...]) -> Any:
        self._name = config[0]
        self._diary.append(("begins", self._name))
        return self._guests.init_fails
        yield

    def _handle(self, _id: str, _kind: str, op: str, payload: str, _sender: str, _context: str) -> Any:
        match op:
            case "add":
                self._total += orjson.loads(payload)
                return str(self._total)
            case "burn":
                for _ in range(orjson.loads(payload)):
                    yield BURN
                return str(self._total)
            case "hold":
                while self._guests.holds_message:
                    yield BURN
                return str(self._total)
            case "defer":
                return None
            case "reply":
                yield call("messaging", "reply", orjson.loads(payload), '"late"')
                return "null"
            case _:
                return Failure(True, "ValueError", "ValueError: as told", "{}", "")

    def _get_state(self) -> Any:
        self._guests.state_reads += 1
        self._guests.meanwhile()
        while self._guests.holds_state:
            yield BURN
        if self._name in self._guests.state_fails:
            return Failure(True, "TypeError", "TypeError: a socket cannot be kept", "{}", "")
        return orjson.dumps({"total": self._total}).decode()

    def _set_state(self, _config: tuple[Any, ...], text: str) -> Any:
        self._total = orjson.loads(text)["total"]
        return None
        yield

    def _terminate(self, _reason: str) -> Any:
        self._guests.meanwhile()
        while self._guests.holds_terminate:
            yield BURN
        return None

    def close(self) -> None:
        super().close()
        self._guests.open -= 1
        self._diary.append(("ends", self._name if hasattr(self, "_name") else "?"))


class Looked(Actor):
    """Counts how often somebody wants to know whether it may leave."""

    __slots__ = ()
    looks = 0

    @property
    def anchored(self) -> bool:
        Looked.looks += 1
        return super().anchored


def durability_of(bench: Bench) -> Durability:
    """Durability in memory, for a bench's actors."""
    return Durability(
        JournalTable(MemoryDatabase(journal.SCHEMA)),
        clock=bench.clock,
        events=bench.events,
        asks=bench.asks,
        timers=bench.host.timers,
        scheduler=bench.scheduler,
        loop=asyncio.get_running_loop(),
    )


class House:
    """Activates by name, and again for what an ended one leaves in its mailbox, as a node does."""

    def __init__(self, cap: int = 1_000, idle_s: float = 60.0, state_bytes_max: int = 1 << 30) -> None:
        self.bench = Bench(virtual_actors_resident_per_tenant_max=cap)
        self.clock = ManualClock()
        self.alarm = Alarm(self.clock, lambda: self.residents.ring())
        self.states = MemoryStates(state_bytes_max)
        self.residents = Residents(
            scheduler=self.bench.scheduler,
            clock=self.clock,
            events=self.bench.events,
            limits=self.bench.limits,
            set_alarm=self.alarm.set,
            states=self.states,
        )
        self.durability = durability_of(self.bench)
        self.config = VirtualActorConfig(idle_s, eager=False)
        self.guests = Guests()
        self.diary: list[tuple[str, str]] = []
        self.starts: list[tuple[str, Exit | None]] = []
        self.room = True
        # Whether a successor has its predecessor's facets, as that of a supervised place has.
        self.facets_stay = False
        self._messages = 0

    # -- as a node does -----------------------------------------------------------------------------------

    def resolve(self, name: str, scope: Scope = SCOPE) -> Actor:
        found = self.bench.registry.find(scope, name)
        return found if found is not None else self._activate(Address.parse(scope, name), None)

    def _activate(self, address: Address, mailbox: Any, chain: Any = None) -> Actor:
        chain = chain or Chain((("virtual_actor", self.residents.facet(address, self.config)),))
        spec = ActorSpec(new_guest=self._guest, component_hash="0" * 64, limits=self.bench.limits)
        actor = Looked(address, spec, self._exited, started_ms=0, mailbox=mailbox, facets=chain)
        self.bench.registry.add(actor)
        self.residents.launch(actor, lambda failed: self.starts.append((address.text, failed)))
        return actor

    def _guest(self) -> ScriptedGuest:
        if not self.room:
            raise LimitExceeded("the node has no more instances")
        return Counter(self.guests, self.diary)

    def _exited(self, actor: Actor, exit_: Exit) -> None:
        self.bench.registry.remove(actor)
        self.bench.exits[actor.address.text] = exit_
        while (signal := actor.mailbox.take_system()) is not None:
            assert isinstance(signal, Deactivate)
            signal.on_done(None)
        if not actor.mailbox.empty:
            self._activate(actor.address, actor.mailbox, actor.facets if self.facets_stay else None)

    # -- as a test does -----------------------------------------------------------------------------------

    def post(self, name: str, op: str, argument: Any = 1, scope: Scope = SCOPE) -> asyncio.Future[Outcome]:
        """Send an ask to a name, without waiting."""
        return self.bench.post(self.resolve(name, scope), op, orjson.dumps(argument).decode(), 60.0)

    async def ask(self, name: str, op: str = "add", argument: Any = 1, scope: Scope = SCOPE) -> Any:
        """Send an ask to a name, and let everything happen that can."""
        future = self.post(name, op, argument, scope)
        await self.settle()
        return future.result() if future.done() else None

    async def settle(self) -> None:
        """Let everything run that can without time passing."""
        while self.bench.scheduler.ready or self.alarm.pending:
            await asyncio.sleep(0)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Let everything run until this has happened."""
        while not happened():
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.alarm.look()
        await self.settle()

    def resident(self, scope: Scope = SCOPE) -> set[str]:
        """The names that are in memory."""
        return {a.address.text for a in self.bench.registry if a.address.scope == scope and a.guest is not None}

    def residency(self, name: str) -> Residency:
        actor = self.bench.registry.find(SCOPE, name)
        assert actor is not None
        assert isinstance(actor.facets, Chain)
        found = actor.facets.find(Residency)
        assert found is not None
        return found

    def figures(self) -> tuple[int, int, int, int]:
        """Resident, waiting, activations, deactivations."""
        resident, waiting, activations, deactivations = self.residents.counters().values()
        return resident, waiting, activations, deactivations


OTHER = replace(SCOPE, tenant="globex")
