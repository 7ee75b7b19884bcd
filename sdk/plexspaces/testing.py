"""Actors on plain CPython, in milliseconds: a node in memory with its clock and its chance in the test's hand.

    from plexspaces.testing import TestNode

    def test_counter():
        node = TestNode()
        counter = node.spawn(Counter)
        assert counter.ask("increment", amount=5) == {"count": 5}
        counter.crash()
        assert counter.ask("get") == {"count": 5}      # a durable actor kept its state

The actor runs through the same dispatcher, codec and host facade as in the sandbox; only the imports behind them are
others.  Everything happens on the caller's stack: an `ask` runs the other actor's handler inside the asking one's, a
`send` waits in the mailbox until nobody is busy, and time moves when the test says so or an actor sleeps.  What the
standard library does by itself (`time.time`, `random`) is not changed here; `host.now_ms` and `host.sleep` are virtual.

In memory: messages, life, timers, clock, chance, groups, registry, key-value, log, and service links that the test
answers.  The other stores answer `unavailable`.
"""

from __future__ import annotations

import heapq
import importlib
import inspect
import itertools
import json
import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from . import _imports, codec, host
from ._bindings.componentize_py_types import Err, Ok
from ._bindings.wit_world.imports import types
from ._guest import INTERFACES
from ._version import __version__
from ._world import make_world
from .definition import ActorDefinition
from .errors import ActorNotFound

__all__ = ["Exit", "LogLine", "TestActor", "TestNode"]

ASK_TIMEOUT_MS: Final = 30_000
START_NS: Final = 1_700_000_000_000_000_000
DELIVERIES_MAX: Final = 100_000
# The node's defaults.
LIMITS: Final[Mapping[str, int]] = {
    "links_per_actor_max": 10_000,
    "monitors_per_actor_max": 10_000,
    "timers_per_actor_max": 10_000,
    "groups_per_actor_max": 1_000,
    "labels_per_actor_max": 64,
}
_DELAY_MS_MAX: Final = 365 * 24 * 3_600 * 1_000
_TEXT_BYTES_MAX: Final = 256
_ENTRIES_MAX: Final = 1_000
_REASON_CHARS_MAX: Final = 1_000
_RANDOM_BYTES_MAX: Final = 65_536
_KEYS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that an actor wrote."""

    actor_id: str
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of an incarnation of an actor.

    Attributes:
        reason: `normal`, `shutdown`, `killed`, `crashed`, ...
        message: of a crash, for a person.
        kind: of a crash: the exception's type, or `stopped`.
        cause: the actor whose end came to this one through a link, "" when it ended by itself.
    """

    actor_id: str
    reason: str
    message: str = ""
    traceback: str = ""
    kind: str = ""
    cause: str = ""

    @property
    def text(self) -> str:
        """The reason as others are told of it."""
        if self.reason != "crashed":
            return self.reason
        message = self.message.removeprefix(f"{self.kind}: ")
        return f"crashed({self.kind}, {message})" if message else f"crashed({self.kind})"

    @property
    def orderly(self) -> bool:
        """It is not started again after this."""
        return self.reason in ("normal", "shutdown")


def _stopped(actor_id: str, reason: str) -> Exit:
    if reason in ("normal", "shutdown"):
        return Exit(actor_id, reason)
    return Exit(actor_id, "crashed", reason, kind="stopped") if reason else Exit(actor_id, "shutdown")


@dataclass(frozen=True, slots=True)
class _Deployed:
    definitions: Mapping[str, ActorDefinition]
    role: str


@dataclass(slots=True, eq=False)
class _Timer:
    id: str
    cell: _Cell
    op: str
    payload: str
    due_ns: int
    interval_ns: int
    context: str


@dataclass(slots=True, eq=False)
class _Cell:
    """An actor: identity, mailbox, and the world and books of its present incarnation."""

    actor_id: str
    deployed: _Deployed
    args: str
    facets: str
    restart: bool
    world: Any = None
    alive: bool = False
    saved: str | None = None
    mailbox: deque[Any] = field(default_factory=deque)
    notices: deque[Any] = field(default_factory=deque)  # DOWN and EXIT: these go first
    links: dict[str, None] = field(default_factory=dict)
    watching: dict[str, str] = field(default_factory=dict)  # reference -> who is watched
    watchers: dict[str, str] = field(default_factory=dict)  # reference -> who watches
    timers: dict[str, _Timer] = field(default_factory=dict)
    # What the node tells it, by message id, until it is handled: whatever is not in here any more is void.
    told: dict[str, tuple[str, str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    trap_exit: bool = False
    spawner: str = ""  # until it is up
    stopping: Exit | None = None
    doomed: Exit | None = None  # its end, which waits for the handler that is on the stack
    deadline_ns: int | None = None
    context: dict[str, Any] = field(default_factory=dict)
    imports: Any = None

    @property
    def definition(self) -> ActorDefinition:
        return self.deployed.definitions[self.deployed.role]

    def told_of(self, what: str) -> list[str]:
        """The messages of this kind that wait."""
        return [message_id for message_id, (kind, _) in self.told.items() if kind == what]

    def take_back(self, what: str, of: str) -> bool:
        """Make void what waits to tell it of this; whether anything did."""
        waiting = [message_id for message_id, about in self.told.items() if about == (what, of)]
        for message_id in waiting:
            del self.told[message_id]
        return bool(waiting)


class _Killed(BaseException):
    """Unwinds the handler of an actor that a host call has ended."""


class _Failed(Exception):
    """A failure record of an actor's export."""

    def __init__(self, failure: Any) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _error(code: str, message: str, /, **details: Any) -> Exception:
    return Err(types.Error(types.ErrorCode[code.upper().replace("-", "_")], message, json.dumps(details)))


def _refuse_more(cell: _Cell, limit: str, used: int) -> None:
    if used >= LIMITS[limit]:
        raise _error(
            "limit-exceeded",
            f"actor {cell.actor_id!r} has {used}, as many as it may: see {limit}",
            limit=limit,
            value=LIMITS[limit],
        )


def _crash(cell: _Cell, failure: Any) -> Exit:
    return Exit(cell.actor_id, "crashed", failure.message, failure.traceback, kind=failure.code)


def _cut(reason: str) -> str:
    return reason if len(reason) <= _REASON_CHARS_MAX else reason[: _REASON_CHARS_MAX - 3] + "..."


def _check_text(what: str, text: str) -> None:
    if not 1 <= len(text.encode()) <= _TEXT_BYTES_MAX:
        raise _error("invalid-argument", f"{what} has 1 to {_TEXT_BYTES_MAX} bytes, not {len(text.encode())}")


class TestActor:
    """An actor as a test sees it."""

    __test__ = False

    def __init__(self, node: TestNode, actor_id: str) -> None:
        self._node = node
        self.actor_id = actor_id

    def __repr__(self) -> str:
        return f"<TestActor {self.actor_id}>"

    @property
    def alive(self) -> bool:
        """It has neither been stopped nor crashed for good."""
        cell = self._node._cells.get(self.actor_id)
        return cell is not None and cell.alive

    @property
    def state(self) -> dict[str, Any]:
        """The declared state, as it would come back after a restart."""
        cell = self._node._living(self.actor_id)
        document = json.loads(self._node._export(cell, "get_state"))
        return {name: codec.decode(value) for name, value in document["fields"].items()}

    def ask(self, op: str, payload: Any = None, /, **arguments: Any) -> Any:
        """Send a message from outside and return the reply; arguments as a dict, or by name.

        Raises:
            HostError: `handler-refused`, `handler-crashed`, `deadline-exceeded`, ...
        """
        return self._node.ask(self.actor_id, op, arguments if payload is None else payload)

    def tell(self, op: str, payload: Any = None, /, **arguments: Any) -> None:
        """Send a message from outside; it and all it causes are done on return."""
        self._node.tell(self.actor_id, op, arguments if payload is None else payload)

    def signal(self, name: str, payload: Any = None, /, **arguments: Any) -> None:
        """Send a workflow's signal."""
        kind = types.MessageKind.SIGNAL
        self._node._from_outside(self.actor_id, kind, name, arguments if payload is None else payload)

    def query(self, name: str, payload: Any = None, /, **arguments: Any) -> Any:
        """Ask a workflow's query."""
        kind = types.MessageKind.QUERY
        return self._node._from_outside(self.actor_id, kind, name, arguments if payload is None else payload)

    def run(self, payload: Any = None, /, **arguments: Any) -> Any:
        """Run a workflow."""
        kind = types.MessageKind.RUN
        return self._node._from_outside(self.actor_id, kind, "run", arguments if payload is None else payload)

    def crash(self, reason: str = "killed") -> None:
        """Let it die between two messages; it is restarted as after any crash."""
        self._node._end(self._node._living(self.actor_id), Exit(self.actor_id, reason))
        self._node.settle()

    def restart(self, *, keep_state: bool = True) -> None:
        """A new incarnation, with the state of now or from the start."""
        node = self._node
        cell = node._cells[self.actor_id]
        if cell.alive and keep_state:
            cell.saved = node._export(cell, "get_state")
        node._start(cell, keep_state=keep_state)
        node.settle()

    def stop(self, reason: str = "shutdown") -> None:
        """Let it end for good, as an operator does."""
        cell = self._node._living(self.actor_id)
        restart, cell.restart = cell.restart, False
        self._node._stop(cell, _stopped(self.actor_id, reason))
        cell.restart = restart
        self._node.settle()


class TestNode:
    """A node in memory.

    Args:
        seed: of everything random that actors get from the host.
        start_ms: wall clock at the beginning, milliseconds since 1970.
    """

    __test__ = False

    def __init__(self, *, seed: int = 0, start_ms: int = START_NS // 1_000_000) -> None:
        self.logs: list[LogLine] = []
        self.exits: list[Exit] = []
        self._start_ns = start_ms * 1_000_000
        self._elapsed_ns = 0
        self._random = random.Random(seed)
        self._ids = itertools.count(1)
        self._types: dict[str, _Deployed] = {}
        self._cells: dict[str, _Cell] = {}
        self._stack: list[_Cell] = []
        self._timers: list[tuple[int, int, _Timer]] = []
        self._ended: deque[tuple[_Cell, Exit, bool]] = deque()
        self._telling = False
        self._groups: dict[str, dict[str, None]] = {}
        self._values: dict[tuple[str, str], tuple[str, int | None]] = {}
        self._replies: dict[str, str] = {}
        self._answers: dict[str, Callable[..., Any]] = {}

    # -- for tests ---------------------------------------------------------------------------------------

    def deploy(self, actor_type: str, actor_class: type) -> None:
        """Make a class known under a type, so that actors can spawn it.

        Raises:
            DefinitionError: the class is no actor.
        """
        definition = ActorDefinition.of(actor_class)
        self._types[actor_type] = _Deployed({"": definition}, "")

    def spawn(
        self,
        actor_class: type,
        args: Mapping[str, Any] | None = None,
        *,
        actor_type: str = "",
        key: str = "",
        facets: Mapping[str, Any] | None = None,
        restart: bool = True,
    ) -> TestActor:
        """Start an actor.

        Args:
            actor_class: deployed under `actor_type` if it is not yet.
            args: for its init handler.
            actor_type: "" takes the class's name in snake case.
            key: "" stands for the type's only one.
            facets: as the node would pass them: `{"arguments": "lenient"}`.
            restart: start it again when it crashes; with its state if it has the facet `durability`.

        Raises:
            DefinitionError: the class is no actor.
            HostError: it exists already, or its init handler failed.
        """
        name = actor_type or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", actor_class.__name__).lower()
        known = self._types.get(name)
        if known is None or known.definitions[""].cls is not actor_class:
            self.deploy(name, actor_class)
        actor_id = name if not key else f"{name}/{key}"
        with self._translated():
            self._spawn(name, actor_id, json.dumps(dict(args or {})), json.dumps(dict(facets or {})), restart=restart)
        self.settle()
        return TestActor(self, actor_id)

    def actor(self, actor_id: str) -> TestActor:
        """An actor by name, such as one that another actor spawned."""
        if actor_id not in self._cells:
            raise ActorNotFound(f"there is no actor {actor_id!r}")
        return TestActor(self, actor_id)

    def ask(
        self,
        to: str,
        op: str,
        payload: Any = None,
        *,
        timeout_ms: int = ASK_TIMEOUT_MS,
        subject: str = "tester",
        roles: Iterable[str] = (),
        session: str = "",
    ) -> Any:
        """Send a message from outside, as a caller with these roles, and return the reply.

        Raises:
            HostError: with the code a caller would see.
        """
        caller = {"subject": subject, "roles": sorted(roles), "session": session}
        return self._from_outside(to, types.MessageKind.CALL, op, payload, timeout_ms=timeout_ms, caller=caller)

    def tell(
        self, to: str, op: str, payload: Any = None, *, subject: str = "tester", roles: Iterable[str] = ()
    ) -> None:
        """Send a message from outside; it and all it causes are done on return."""
        caller = {"subject": subject, "roles": sorted(roles)}
        self._from_outside(to, types.MessageKind.CAST, op, payload, caller=caller)

    def advance(self, seconds: float) -> None:
        """Let time pass; timers fire in order, each with its consequences."""
        if seconds < 0:
            raise ValueError("time does not go back")
        end = self._elapsed_ns + round(seconds * 1e9)
        while self._timers and self._timers[0][0] <= end:
            self._elapsed_ns = max(self._elapsed_ns, self._timers[0][0])
            self._fire_due()
            self.settle()
        self._elapsed_ns = max(self._elapsed_ns, end)

    def answer(self, link: str, function: Callable[[str, str, dict[str, str], str], tuple[int, Any]]) -> None:
        """Be the outside world behind a service link.

        Args:
            link: its name.
            function: takes method, path, headers and body; gives the status and the body (text, or data as JSON).
        """
        self._answers[link] = function

    @property
    def now_ms(self) -> int:
        """The virtual wall clock."""
        return self.now_ns // 1_000_000

    def settle(self) -> None:
        """Deliver what waits in mailboxes until nothing does."""
        if self._stack:
            return
        for _ in range(DELIVERIES_MAX):
            cell = next((cell for cell in self._cells.values() if cell.alive and (cell.notices or cell.mailbox)), None)
            if cell is None:
                return
            self._deliver_next(cell)
        raise RuntimeError(f"actors still send to one another after {DELIVERIES_MAX} messages: does one never stop?")

    # -- time --------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """The virtual wall clock, nanoseconds since 1970."""
        return self._start_ns + self._elapsed_ns

    def _fire_due(self) -> None:
        while self._timers and self._timers[0][0] <= self._elapsed_ns:
            _, _, timer = heapq.heappop(self._timers)
            cell = timer.cell
            if cell.timers.get(timer.id) is timer:
                envelope = self._envelope(types.MessageKind.INFO, timer.op, timer.payload, cell.actor_id, timer.context)
                cell.told[envelope.id] = ("timer", timer.id)
                cell.mailbox.append(envelope)

    def _arm(self, timer: _Timer) -> None:
        heapq.heappush(self._timers, (timer.due_ns, next(self._ids), timer))

    def _claim(self, cell: _Cell, envelope: Any) -> bool:
        """A message of the node's has come to be handled; False when it is void."""
        what, of = cell.told.pop(envelope.id, ("", ""))
        if what == "timer":
            timer = cell.timers[of]
            if timer.interval_ns:
                # The next tick on the grid of the first: those that came while this one waited are skipped.
                timer.due_ns += timer.interval_ns * (1 + (self._elapsed_ns - timer.due_ns) // timer.interval_ns)
                self._arm(timer)
            else:
                del cell.timers[of]
        return what != ""

    # -- messages ----------------------------------------------------------------------------------------

    def _envelope(self, kind: Any, op: str, payload: str, sender: str, context: str) -> Any:
        return types.Envelope(f"m-{next(self._ids)}", kind, op, payload, sender, context)

    def _from_outside(
        self,
        to: str,
        kind: Any,
        op: str,
        payload: Any,
        *,
        timeout_ms: int = ASK_TIMEOUT_MS,
        caller: dict[str, Any] | None = None,
    ) -> Any:
        text = host._arguments(payload)
        self.settle()
        with self._translated():
            context = {**(caller or {"subject": "tester", "roles": []})}
            if kind in (types.MessageKind.CAST, types.MessageKind.SIGNAL):
                self._post(to, self._envelope(kind, op, text, "", json.dumps(context)))
                self.settle()
                return None
            reply = self._ask(to, kind, op, text, timeout_ms, "", context, None)
        self.settle()
        return json.loads(reply)

    def _post(self, to: str, envelope: Any) -> None:
        cell = self._find(to)
        cell.mailbox.append(envelope)

    def _ask(
        self,
        to: str,
        kind: Any,
        op: str,
        payload: str,
        timeout_ms: int,
        sender: str,
        context: dict[str, Any],
        deadline_ns: int | None,
    ) -> str:
        cell = self._find(to)
        busy = [other.actor_id for other in self._stack]
        if cell.actor_id in busy:
            cycle = [*busy[busy.index(cell.actor_id) :], cell.actor_id]
            raise _error("deadlock", f"this ask would wait for itself: {' -> '.join(cycle)}", cycle=cycle)
        own = self._elapsed_ns + (timeout_ms or ASK_TIMEOUT_MS) * 1_000_000
        deadline = own if deadline_ns is None else min(own, deadline_ns)
        context = {**context, "deadline_ms": (self._start_ns + deadline) // 1_000_000}
        envelope = self._envelope(kind, op, payload, sender, json.dumps(context))
        while cell.alive and (cell.notices or cell.mailbox):  # what came first is handled first
            self._deliver_next(cell)
        if not cell.alive:
            raise _error("actor-exited", f"{to} ended before it came to the message")
        try:
            reply = self._run(cell, envelope, deadline)
        except _Failed as failed:
            raise self._caller_error(cell, failed.failure) from None
        if self._elapsed_ns > deadline:
            raise _error("deadline-exceeded", f"{to} did not answer {op!r} in time; the work may have been done")
        if reply is None:
            self.settle()
            if envelope.id not in self._replies:
                raise _error("deadline-exceeded", f"{to} returned NO_REPLY to {op!r}, and nobody called host.reply")
            reply = self._replies.pop(envelope.id)
        return reply

    def _caller_error(self, cell: _Cell, failure: Any) -> Exception:
        if failure.kind is types.FailureKind.REFUSED:
            details = {**json.loads(failure.details), "reason": failure.code}
            return _error("handler-refused", failure.message, **details)
        return _error("handler-crashed", f"{cell.actor_id} crashed: {failure.message}", type=failure.code)

    def _deliver_next(self, cell: _Cell) -> None:
        envelope = (cell.notices or cell.mailbox).popleft()
        if envelope.kind is types.MessageKind.CALL:
            raise AssertionError("calls are run at once and never wait in a mailbox")
        if envelope.kind is types.MessageKind.INFO and not self._claim(cell, envelope):
            return
        try:
            self._run(cell, envelope, None)
        except Err:
            pass  # it was ended in the middle: nobody waits for an answer
        except _Failed as failed:
            if failed.failure.kind is types.FailureKind.REFUSED:
                line = f"refused {envelope.op!r}: {failed.failure.message}"
                self.logs.append(LogLine(cell.actor_id, "warn", line))

    def _run(self, cell: _Cell, envelope: Any, deadline_ns: int | None) -> str | None:
        cell.deadline_ns = deadline_ns
        cell.context = json.loads(envelope.context) if envelope.context else {}
        durable = "durability" in cell.definition.facets
        try:
            reply: str | None = self._export(cell, "handle", envelope)
        except _Failed as failed:
            failure = failed.failure
            if cell.doomed is None:
                if failure.kind is types.FailureKind.CRASHED:
                    self._end(cell, _crash(cell, failure))
                raise
        if (doomed := cell.doomed) is not None:
            self._end(cell, doomed)
            raise _error("actor-exited", f"actor {cell.actor_id!r} ended ({doomed.text}) before it replied")
        if durable and cell.alive:
            cell.saved = self._export(cell, "get_state")
        if cell.stopping is not None:
            self._stop(cell, cell.stopping)
        return reply

    def _export(self, cell: _Cell, name: str, *args: Any) -> Any:
        """Call one export, with the cell's imports in place."""
        before = _imports.bind(cell.imports)
        self._stack.append(cell)
        try:
            return getattr(cell.world(), name)(*args)
        except Err as failure:
            raise _Failed(failure.value) from None
        finally:
            self._stack.pop()
            _imports.bind(before)

    # -- life --------------------------------------------------------------------------------------------

    def _find(self, actor_id: str) -> _Cell:
        cell = self._cells.get(actor_id)
        if cell is None or not cell.alive:
            raise _error("actor-not-found", f"there is no actor {actor_id!r}")
        return cell

    def _living(self, actor_id: str) -> _Cell:
        with self._translated():
            return self._find(actor_id)

    def _spawn(
        self,
        actor_type: str,
        actor_id: str,
        args: str,
        facets: str,
        *,
        restart: bool,
        created: Callable[[_Cell], None] | None = None,
    ) -> _Cell:
        deployed = self._types.get(actor_type)
        if deployed is None:
            known = ", ".join(self._types) or "none"
            raise _error("actor-not-found", f"no type {actor_type!r} is deployed (deployed: {known})")
        old = self._cells.get(actor_id)
        if old is not None and old.alive:
            raise _error("already-exists", f"{actor_id} runs already")
        cell = _Cell(actor_id, deployed, args, facets, restart)
        cell.imports = _Imports(self, cell)
        self._cells[actor_id] = cell
        cell.alive = True
        if created is not None:
            created(cell)
        try:
            self._start(cell, keep_state=False)
        except _Failed as failed:
            del self._cells[actor_id]
            raise _error("handler-crashed", f"{actor_id} could not start: {failed.failure.message}") from None
        return cell

    def _start(self, cell: _Cell, *, keep_state: bool) -> None:
        cell.world = make_world(cell.deployed.definitions, types, Err, version=__version__)
        restored = keep_state and cell.saved is not None
        config = types.InitConfig(cell.actor_id, cell.deployed.role, cell.args, restored, cell.facets)
        cell.alive = True
        try:
            if restored:
                self._export(cell, "set_state", config, cell.saved)
            self._export(cell, "init", config)
        except _Failed as failed:
            self._end(cell, cell.doomed or _crash(cell, failed.failure), restart=False)
            raise
        cell.spawner = ""
        if "durability" in cell.definition.facets:
            cell.saved = self._export(cell, "get_state")

    def _end(self, cell: _Cell, exit_: Exit, *, restart: bool = True) -> None:
        """An incarnation is over: gone from everywhere at once, told of in the order of the ends, then started anew."""
        if not cell.alive:
            return
        cell.alive = False
        self.exits.append(exit_)
        cell.timers, cell.told, cell.labels = {}, {}, {}
        cell.notices.clear()
        for members in self._groups.values():
            members.pop(cell.actor_id, None)
        self._ended.append((cell, exit_, restart))
        if self._telling:
            return
        self._telling = True
        try:
            while self._ended:
                self._tell(*self._ended.popleft())
        finally:
            self._telling = False

    def _tell(self, cell: _Cell, exit_: Exit, restart: bool) -> None:
        links, cell.links = cell.links, {}
        watchers, cell.watchers = cell.watchers, {}
        watching, cell.watching = cell.watching, {}
        never_up, cell.spawner = cell.spawner, ""
        for reference, watched in watching.items():
            if (other := self._cells.get(watched)) is not None:
                other.watchers.pop(reference, None)
        for other_id in links:
            other = self._cells.get(other_id)
            if other is None or other.links.pop(cell.actor_id, "none") == "none" or not other.alive:
                continue
            if other_id == never_up:
                continue
            if other.trap_exit:
                self._tell_exit(other, cell.actor_id, exit_.text)
            elif exit_.reason != "normal":
                self._doom(
                    other,
                    Exit(other_id, exit_.reason, exit_.message, kind=exit_.kind, cause=exit_.cause or cell.actor_id),
                )
        for reference, watcher_id in watchers.items():
            watcher = self._cells.get(watcher_id)
            if watcher is None or watcher.watching.pop(reference, None) is None:
                continue
            if watcher.alive and watcher_id != never_up:
                self._tell_down(watcher, reference, cell.actor_id, exit_.text)
        cell.trap_exit, cell.stopping, cell.doomed = False, None, None
        if restart and cell.restart and not exit_.orderly:
            keep = "durability" in cell.definition.facets
            try:
                self._start(cell, keep_state=keep)
            except _Failed as failed:
                # What a supervisor would hear; here the exit that `_start` has noted says it.
                self.logs.append(LogLine(cell.actor_id, "error", f"could not restart: {failed.failure.message}"))

    def _doom(self, cell: _Cell, exit_: Exit) -> None:
        """End an actor whatever it is doing: once its handler is off the stack, for this is plain Python."""
        if cell not in self._stack:
            self._end(cell, exit_)
        elif cell.doomed is None:
            cell.doomed = exit_

    def _stop(self, cell: _Cell, exit_: Exit) -> None:
        if cell in self._stack:
            cell.stopping = exit_  # it finishes the message it is handling
            return
        cell.stopping = None
        try:
            self._export(cell, "terminate", exit_.text)
        except _Failed as failed:
            self.logs.append(LogLine(cell.actor_id, "error", f"terminate failed: {failed.failure.message}"))
        self._end(cell, exit_)

    def _tell_exit(self, cell: _Cell, whose: str, reason: str) -> None:
        payload = {"actor_id": whose, "reason": _cut(reason)}
        envelope = self._envelope(types.MessageKind.INFO, "EXIT", json.dumps(payload), "", "")
        cell.told[envelope.id] = ("EXIT", whose)
        cell.notices.append(envelope)

    def _tell_down(self, cell: _Cell, reference: str, whose: str, reason: str) -> None:
        payload = {"monitor_ref": reference, "actor_id": whose, "reason": _cut(reason)}
        envelope = self._envelope(types.MessageKind.INFO, "DOWN", json.dumps(payload), "", "")
        cell.told[envelope.id] = ("DOWN", reference)
        cell.notices.append(envelope)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors as a test sees them: the same exceptions as an actor."""
        try:
            yield
        except Err as failure:
            raise host._failure(failure.value) from None


# -- the imports, one class an interface ---------------------------------------------------------------------


class _Interface:
    """An interface of the contract for one actor: records and enums are the bindings' own.

    A function that a subclass does not define answers `unavailable`, as a node without that store does.
    """

    name = ""

    def __init__(self, node: TestNode, cell: _Cell) -> None:
        self._node = node
        self._cell = cell
        self._bindings = importlib.import_module(f"plexspaces._bindings.wit_world.imports.{self.name}")

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._bindings, name)
        if not inspect.isfunction(value):
            return value
        interface = self.name

        def unavailable(*args: Any) -> Any:
            raise _error("unavailable", f"{interface} is not part of the test node")

        return unavailable


class _Messaging(_Interface):
    name = "messaging"

    def ask(self, to: str, op: str, payload: str, timeout_ms: int) -> str:
        cell = self._cell
        return self._node._ask(
            to,
            types.MessageKind.CALL,
            op,
            payload,
            timeout_ms,
            cell.actor_id,
            _inherited(cell.context),
            cell.deadline_ns,
        )

    def ask_many(self, requests: list[Any], timeout_ms: int) -> list[Any]:
        if len(requests) > 1000:
            error = types.Error(types.ErrorCode.LIMIT_EXCEEDED, "at most 1,000 questions at once", "{}")
            return [Err(error) for _ in requests]
        results: list[Any] = []
        for request in requests:
            try:
                results.append(Ok(self.ask(request.to, request.op, request.payload, timeout_ms)))
            except Err as failure:
                results.append(failure)
        return results

    def send(self, to: str, op: str, payload: str) -> str:
        cell = self._cell
        context = json.dumps(_inherited(cell.context))
        envelope = self._node._envelope(types.MessageKind.CAST, op, payload, cell.actor_id, context)
        self._node._post(to, envelope)
        return str(envelope.id)

    def reply(self, message_id: str, payload: str) -> None:
        self._node._replies[message_id] = payload


def _inherited(context: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in context.items() if name in ("subject", "roles", "session", "trace")}


class _Lifecycle(_Interface):
    name = "lifecycle"

    def self_id(self) -> str:
        return self._cell.actor_id

    def spawn(self, options: Any) -> Any:
        node, cell = self._node, self._cell
        key = options.key or f"t{next(node._ids)}"
        actor_id = options.actor_type if key == "default" else f"{options.actor_type}/{key}"
        if not isinstance(json.loads(options.args), dict):
            raise _error("invalid-argument", "the arguments of a new actor are a JSON object")
        if options.link:
            self._refuse_more_links(cell)
        reference = f"ref-{next(node._ids)}" if options.monitor else ""

        def created(child: _Cell) -> None:
            # From its first moment; its start failing is the caller's answer, not also an EXIT or a DOWN.
            child.spawner = cell.actor_id
            if options.link:
                self._tie(child)
            if options.monitor:
                self._watch(child, reference)

        child = node._spawn(options.actor_type, actor_id, options.args, "{}", restart=False, created=created)
        return self._bindings.Spawned(child.actor_id, reference)

    def stop(self, actor_id: str, reason: str) -> None:
        self._node._stop(self._node._find(actor_id), _stopped(actor_id, reason))

    def link(self, actor_id: str) -> None:
        cell, other = self._cell, self._living(actor_id)
        if other is cell or actor_id in cell.links:
            return
        if other is not None:
            self._tie(other)
            return
        if cell.trap_exit:
            self._refuse_more_links(cell)
            self._node._tell_exit(cell, actor_id, "noproc")
            return
        self._node._doom(cell, Exit(cell.actor_id, "noproc", cause=actor_id))
        raise _Killed

    def unlink(self, actor_id: str) -> None:
        self._cell.links.pop(actor_id, None)
        self._cell.take_back("EXIT", actor_id)
        other = self._node._cells.get(actor_id)
        if other is not None:
            other.links.pop(self._cell.actor_id, None)

    def monitor(self, actor_id: str) -> str:
        cell, other = self._cell, self._living(actor_id)
        _refuse_more(cell, "monitors_per_actor_max", len(cell.watching) + len(cell.told_of("DOWN")))
        reference = f"ref-{next(self._node._ids)}"
        if other is None:
            self._node._tell_down(cell, reference, actor_id, "noproc")
        elif other is not cell:
            self._watch(other, reference)
        return reference

    def demonitor(self, monitor_ref: str) -> None:
        watched = self._node._cells.get(self._cell.watching.pop(monitor_ref, ""))
        if watched is not None:
            watched.watchers.pop(monitor_ref, None)
        self._cell.take_back("DOWN", monitor_ref)

    def trap_exit(self, enabled: bool) -> bool:
        before, self._cell.trap_exit = self._cell.trap_exit, enabled
        return before

    def _living(self, actor_id: str) -> _Cell | None:
        other = self._node._cells.get(actor_id)
        return other if other is not None and other.alive else None

    def _tie(self, other: _Cell) -> None:
        for one in (self._cell, other):
            self._refuse_more_links(one)
        self._cell.links[other.actor_id] = None
        other.links[self._cell.actor_id] = None

    def _watch(self, other: _Cell, reference: str) -> None:
        self._cell.watching[reference] = other.actor_id
        other.watchers[reference] = self._cell.actor_id

    def _refuse_more_links(self, cell: _Cell) -> None:
        _refuse_more(cell, "links_per_actor_max", len(cell.links) + len(cell.told_of("EXIT")))


class _Timers(_Interface):
    name = "timers"

    def send_after(self, delay_ms: int, op: str, payload: str) -> str:
        return self._add(delay_ms, op, payload, 0)

    def send_interval(self, interval_ms: int, op: str, payload: str) -> str:
        if interval_ms < 1:
            raise _error("invalid-argument", "an interval is at least 1 ms")
        return self._add(interval_ms, op, payload, interval_ms * 1_000_000)

    def _add(self, delay_ms: int, op: str, payload: str, interval_ns: int) -> str:
        node, cell = self._node, self._cell
        if delay_ms > _DELAY_MS_MAX:
            raise _error("invalid-argument", f"{delay_ms} ms is too much: at most a year")
        _refuse_more(cell, "timers_per_actor_max", len(cell.timers))
        due_ns = node._elapsed_ns + delay_ms * 1_000_000
        context = json.dumps(_inherited(cell.context))
        timer = _Timer(f"timer-{next(node._ids)}", cell, op, payload, due_ns, interval_ns, context)
        cell.timers[timer.id] = timer
        node._arm(timer)
        return timer.id

    def cancel(self, timer_id: str) -> bool:
        self._cell.take_back("timer", timer_id)
        return self._cell.timers.pop(timer_id, None) is not None


class _Clock(_Interface):
    name = "clock"

    def now_ns(self) -> int:
        return self._node.now_ns

    def monotonic_ns(self) -> int:
        return self._node._elapsed_ns

    def sleep_ns(self, duration_ns: int) -> None:
        node = self._node
        end = node._elapsed_ns + duration_ns
        if self._cell.deadline_ns is not None:
            # One tick past the deadline: the caller is gone by then.
            end = min(end, max(self._cell.deadline_ns + 1, node._elapsed_ns))
        node._elapsed_ns = end
        node._fire_due()


class _Random(_Interface):
    name = "random"

    def random_hex(self, count: int) -> str:
        if count > _RANDOM_BYTES_MAX:
            raise _error("limit-exceeded", f"at most {_RANDOM_BYTES_MAX} bytes at once", limit="random_bytes_max")
        return self._node._random.randbytes(count).hex()

    def random_u64(self) -> int:
        return self._node._random.getrandbits(64)


class _Logging(_Interface):
    name = "logging"

    def log(self, level: Any, message: str) -> None:
        self._node.logs.append(LogLine(self._cell.actor_id, level.name.lower(), message))


class _ProcessGroups(_Interface):
    name = "process_groups"

    def join(self, group: str) -> None:
        _check_text("the name of a group", group)
        members = self._node._groups.setdefault(group, {})
        if self._cell.actor_id not in members:
            joined = sum(self._cell.actor_id in others for others in self._node._groups.values())
            _refuse_more(self._cell, "groups_per_actor_max", joined)
            members[self._cell.actor_id] = None

    def leave(self, group: str) -> None:
        self._node._groups.get(group, {}).pop(self._cell.actor_id, None)

    def members(self, group: str) -> list[str]:
        return list(self._node._groups.get(group, {}))

    def first(self, group: str) -> str | None:
        return next(iter(self._node._groups.get(group, {})), None)

    def broadcast(self, group: str, op: str, payload: str) -> int:
        cell = self._cell
        others = [member for member in self.members(group) if member != cell.actor_id]
        context = json.dumps(_inherited(cell.context))
        for member in others:
            self._node._post(member, self._node._envelope(types.MessageKind.CAST, op, payload, cell.actor_id, context))
        return len(others)


class _Registry(_Interface):
    name = "registry"

    def find(self, query: Any) -> list[Any]:
        if query.limit > _ENTRIES_MAX:
            raise _error("invalid-argument", f"limit = {query.limit} is too much: at most {_ENTRIES_MAX} entries")
        name, equals, value = query.label.partition("=")
        found = []
        for cell in self._node._cells.values():
            actor_type = cell.actor_id.partition("/")[0]
            if not cell.alive or (query.actor_type and query.actor_type != actor_type):
                continue
            if query.label and (name not in cell.labels or (equals and cell.labels[name] != value)):
                continue
            # Here everything is granted to everybody.
            if query.capability and query.capability.replace("-", "_") not in INTERFACES:
                continue
            found.append(self._bindings.Entry(cell.actor_id, actor_type, json.dumps(cell.labels)))
        return found[: query.limit or 100]

    def set_label(self, name: str, value: str) -> None:
        _check_text("the name of a label", name)
        if "=" in name:
            raise _error("invalid-argument", "the name of a label cannot hold '='")
        labels = self._cell.labels
        if not value:
            labels.pop(name, None)
            return
        _check_text("the value of a label", value)
        if name not in labels:
            _refuse_more(self._cell, "labels_per_actor_max", len(labels))
        labels[name] = value


class _KeyValue(_Interface):
    name = "keyvalue"

    def _current(self, key: str) -> str | None:
        if not 1 <= len(key.encode()) <= 1024:
            raise _error("invalid-argument", "a key has 1 to 1,024 bytes")
        entry = self._node._values.get((self._cell.actor_id, key))
        if entry is None or (entry[1] is not None and entry[1] <= self._node._elapsed_ns):
            return None
        return entry[0]

    def get(self, key: str) -> str | None:
        return self._current(key)

    def put(self, key: str, value: str, ttl_ms: int | None) -> None:
        self._current(key)
        until = None if ttl_ms is None else self._node._elapsed_ns + ttl_ms * 1_000_000
        self._node._values[self._cell.actor_id, key] = (value, until)

    def delete(self, key: str) -> bool:
        there = self._current(key) is not None
        self._node._values.pop((self._cell.actor_id, key), None)
        return there

    def list_keys(self, prefix: str, cursor: str, limit: int) -> Any:
        own = sorted(
            key
            for actor_id, key in self._node._values
            if actor_id == self._cell.actor_id
            and key.startswith(prefix)
            and key > cursor
            and self._current(key) is not None
        )
        count = min(limit or 100, _KEYS_MAX)
        page = own[:count]
        return self._bindings.Page(page, page[-1] if len(own) > count else "")

    def compare_and_set(self, key: str, expected: str | None, value: str | None) -> bool:
        if self._current(key) != expected:
            return False
        if value is None:
            self.delete(key)
        else:
            self.put(key, value, None)
        return True

    def increment(self, key: str, delta: int) -> int:
        text = self._current(key)
        before = 0 if text is None else json.loads(text)
        if type(before) is not int:
            raise _error("conflict", f"the value of {key!r} is not a whole number")
        self.put(key, str(before + delta), None)
        return before + delta


class _Http(_Interface):
    name = "http"

    def fetch(self, request: Any) -> Any:
        answer = self._node._answers.get(request.link)
        if answer is None:
            raise _error("not-found", f"there is no link {request.link!r}: give one with TestNode.answer")
        status, body = answer(request.method, request.path, json.loads(request.headers), request.body)
        if isinstance(body, str):
            return self._bindings.Response(status, "{}", body)
        return self._bindings.Response(status, '{"content-type": "application/json"}', json.dumps(body))


_FAKES: Final[dict[str, type[_Interface]]] = {
    cls.name: cls
    for cls in (
        _Messaging,
        _Lifecycle,
        _Timers,
        _Clock,
        _Random,
        _Logging,
        _ProcessGroups,
        _Registry,
        _KeyValue,
        _Http,
    )
}


class _Imports:
    """What one actor imports."""

    Err = Err

    def __init__(self, node: TestNode, cell: _Cell) -> None:
        self._node = node
        self._cell = cell

    def __getattr__(self, interface: str) -> Any:
        if interface.startswith("__"):
            raise AttributeError(interface)
        cls = _FAKES.get(interface) or type(f"_{interface}", (_Interface,), {"name": interface})
        value = cls(self._node, self._cell)
        setattr(self, interface, value)
        return value
