"""Another version of a component, tried against what durable actors have recorded, before it takes over.

Each actor of the type is made again from its checkpoint on an instance that nobody can address, and is given the
messages that it handled since.  What it asks of the host is answered from its journal and from nowhere else, nothing is
written, and the instance is thrown away.  A version that does this without asking for anything else than was recorded
can take over wherever the node dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..actors.actor import Actor, ActorSpec, Step
from ..actors.capabilities import NOTHING
from ..actors.exits import Exit
from ..actors.facets import MISS, Diverged, Facets
from ..actors.guest import Export, Failure, HostRequest, Result, Trapped
from ..actors.mailbox import Mailbox
from ..durability.durability import Durability, DurabilityConfig
from ..durability.durable import Damaged, Durable, Turn, differs, shortened
from ..scheduler import Scheduler
from ..scope import Address, Scope
from ..stores.journal import Row

ACTORS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Divergence:
    """An actor that the version could not make again.

    Attributes:
        message_id, op: the message with which it went wrong, "" if it was before the first.
        problem: what was expected and what came.
    """

    actor: str
    message_id: str
    op: str
    problem: str


@dataclass(slots=True)
class Report:
    """What a check has found.

    Attributes:
        hash: SHA-256 of the component.
        agreed: how many actors were made again as they were.
        messages: that were replayed for that.
        diverged: the others.
        left_out: actors that were not tried, because there are more than `ACTORS_MAX`.
    """

    hash: str
    agreed: int = 0
    messages: int = 0
    diverged: list[Divergence] = field(default_factory=list)
    left_out: int = 0


class _Trial(Durable):
    """Gives what is recorded, and nothing else; writes nothing."""

    __slots__ = ("caught_up", "divergence", "init", "message_id", "messages", "op")

    def __init__(self, durability: Durability, address: Address) -> None:
        super().__init__(durability, address, DurabilityConfig())
        # All that is recorded of the message in flight was given, and asked for.
        self.caught_up = False
        # What `init` was given and answered, of the instance whose messages these are.
        self.init: dict[str, Any] | None = None
        self.messages = 0
        self.message_id = self.op = self.divergence = ""

    def load(self, row: Row) -> list[Turn]:
        """Get ready; the messages in the order in which they were handled."""
        history = self._read(row)
        self.init = history.init
        flying = history.open or next(iter(history.again.values()), None)
        if flying is history.open and flying is not None:
            flying.effects = shortened(flying.effects)
        return [*history.done, *([flying] if flying is not None else [])]

    def adopt(self, mailbox: Mailbox[Any, Any]) -> None:
        """Nothing comes into a mailbox that nobody knows."""

    def take(self, turn: Turn) -> None:
        """A message is about to be given."""
        self._turn = turn
        self.message_id, self.op = turn.envelope.id, turn.envelope.op
        self.messages += 1

    def replayed(self, request: HostRequest) -> Any:
        value = super().replayed(request)
        if value is MISS and self.recording:
            self.caught_up = True
            raise Diverged("went on")
        return value

    def diverged(self, divergence: Diverged) -> Exit:
        self.divergence = str(divergence)
        return super().diverged(divergence)

    def given(self) -> None:
        """It has been handled."""
        self._turn = None

    @property
    def quiet(self) -> bool:
        return True


class Checks:
    """Tries versions."""

    def __init__(self, durability: Durability, scheduler: Scheduler, loop: asyncio.AbstractEventLoop) -> None:
        self._durability = durability
        self._scheduler = scheduler
        self._loop = loop

    async def check(self, scope: Scope, actor_type: str, spec: ActorSpec) -> Report:
        """Make every durable actor of a type again, as `spec`.

        Everything written so far must be on disk.
        """
        table = self._durability.table
        # It may ask what time it is while its state is set, and what harms nobody else.
        spec = replace(spec, capabilities=NOTHING)
        report = Report(spec.component_hash)
        addresses = [each for each in table.addresses(scope.tenant) if each.scope == scope and each.type == actor_type]
        report.left_out = max(0, len(addresses) - ACTORS_MAX)
        for address in addresses[:ACTORS_MAX]:
            trial = _Trial(self._durability, address)
            problem = await self._try(trial, address, spec)
            if problem is None:
                report.agreed += 1
                report.messages += trial.messages
            else:
                report.diverged.append(Divergence(address.text, trial.message_id, trial.op, problem))
        return report

    async def _try(self, trial: _Trial, address: Address, spec: ActorSpec) -> str | None:
        """What went wrong, if anything did."""
        row = self._durability.table.find(address)
        if row is None or row.state is None:
            # It begins anew in any case.
            return None
        try:
            turns = trial.load(row)
        except Damaged as damage:
            now = self._durability.table.find(address)
            if now is not None and now.head != row.head:
                # It was compacted while it was read.
                return await self._try(trial, address, spec)
            return f"its journal is damaged: {damage}"
        done: asyncio.Future[str | None] = self._loop.create_future()

        def end(problem: str | None) -> None:
            if not done.done():
                done.set_result(problem)

        def ended(_actor: Actor, exit_: Exit) -> None:
            end(None if trial.caught_up else trial.divergence or exit_.message or exit_.text)

        actor = Actor(address, spec, ended, started_ms=0, facets=Facets((trial,)))
        trial.actor = actor
        actor.plan = _plan(actor, trial, row.state, turns, end)
        try:
            self._scheduler.try_out(actor)
            return await done
        finally:
            self._scheduler.kill(actor)


def _plan(actor: Actor, trial: _Trial, state: str, turns: list[Turn], end: Callable[[str | None], None]) -> list[Step]:
    spec = actor.spec

    def failed(result: Result) -> str | None:
        if isinstance(result, Trapped):
            return result.exit.message or result.exit.text
        return f"{result.code}: {result.message}" if isinstance(result, Failure) else None

    def good(what: str) -> Callable[[Result], bool]:
        def on_result(result: Result) -> bool:
            if (problem := failed(result)) is not None:
                end(f"{what} failed: {problem}")
            return problem is None

        return on_result

    def give(turn: Turn) -> Step:
        def arguments() -> tuple[Any, ...]:
            trial.take(turn)
            return turn.envelope.arguments()

        def handled(result: Result) -> bool:
            trial.given()
            problem = failed(result) if isinstance(result, Trapped) else differs(turn, result)
            if problem is not None:
                end(problem)
            return problem is None

        return Step(Export.HANDLE, arguments, handled)

    def over(result: Result) -> bool:
        problem = failed(result)
        end(None if problem is None else f"its state cannot be kept: {problem}")
        return False

    config = (actor.address.text, spec.role, spec.args, True, spec.facets)
    set_state = Step(Export.SET_STATE, lambda: (config, state), good("taking over the state"))
    begin = [set_state]
    if trial.init is not None:
        init = trial.init_again(trial.init, lambda exit_: end(exit_.message or exit_.text), lenient=True)
        begin = [set_state, init, set_state] if trial.init["config"][2] else [init, set_state]
    return [
        Step(Export.INSTANTIATE, tuple, good("the start")),
        *begin,
        *map(give, turns),
        Step(Export.GET_STATE, tuple, over),
    ]
