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

An actor that waits for a tuple, a message or a lock gets what is there.  Else the others handle what is in their
mailboxes, and where that brings nothing either, time passes until something does or its own is over.  On one stack the
actor that began to wait last goes on first.

In memory: messages, life, timers, clock, chance, groups, registry, all stores, log, service links that the test
answers, and workflows: a run goes on until it has to wait, and again when it need not any more; see `TestActor.start`.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import itertools
import json
import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from zlib import crc32

from . import _calls, _imports, codec, host
from ._bindings.componentize_py_types import Err, Ok
from ._bindings.wit_world.imports import types
from ._dispatch import Context
from ._guest import INTERFACES
from ._testing_base import LIMITS, NS_PER_MS, Quotas, VirtualClock, Waiter, check_text, contract_error
from ._testing_channels import Channels, DeadLetter, Delivery
from ._testing_credentials import Credentials
from ._testing_http import Links, TestAnswer, TestLink, TestRequest
from ._testing_keys import Blob, Blobs, Held, KeyValues, Locks
from ._testing_streams import Event, Streams, check_path
from ._testing_tuples import TupleSpace
from ._testing_workflow import Left, Record, Recorded, TestPromise, TestRun, WorkflowInterface, Workflows
from ._version import __version__
from ._world import make_world
from .definition import ActorDefinition, Handler
from .errors import ActorNotFound

__all__ = [
    "LIMITS",
    "DeadLetter",
    "Exit",
    "LogLine",
    "TestActor",
    "TestAnswer",
    "TestChannel",
    "TestLink",
    "TestNode",
    "TestPromise",
    "TestRequest",
    "TestRun",
    "TestStream",
]

ASK_TIMEOUT_MS: Final = 30_000
START_NS: Final = 1_700_000_000_000_000_000
DELIVERIES_MAX: Final = 100_000
_DELAY_MS_MAX: Final = 365 * 24 * 3_600 * 1_000
_ENTRIES_MAX: Final = 1_000
_REASON_CHARS_MAX: Final = 1_000
_RANDOM_BYTES_MAX: Final = 65_536


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
    shared_keys: bool = False
    args: str = "{}"

    @property
    def by_name(self) -> bool:
        """Its actors exist by being named."""
        definition = self.definitions[self.role]
        return "virtual_actor" in definition.facets or definition.behaviour == "Workflow"


@dataclass(slots=True, eq=False)
class _Timer:
    id: str
    cell: _Cell
    op: str
    payload: str
    due_ns: int
    interval_ns: int
    context: str


@dataclass(frozen=True, slots=True)
class _Born:
    """How an incarnation was made, so that its instance can be made again as it was."""

    config: Any
    state: str | None
    record: Record


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
    feeds: dict[str, _Feed | _Push] = field(default_factory=dict)  # subscriptions
    waits: bool = False  # its handler waits for something in a store
    spawner: str = ""  # until it is up
    stopping: Exit | None = None
    doomed: Exit | None = None  # its end, which waits for the handler that is on the stack
    deadline_ns: int | None = None
    context: dict[str, Any] = field(default_factory=dict)
    imports: Any = None
    born: _Born | None = None

    @property
    def durable(self) -> bool:
        """Its state outlives a crash."""
        return "durability" in self.definition.facets or self.definition.behaviour == "Workflow"

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


def _crash(cell: _Cell, failure: Any) -> Exit:
    return Exit(cell.actor_id, "crashed", failure.message, failure.traceback, kind=failure.code)


def _cut(reason: str) -> str:
    return reason if len(reason) <= _REASON_CHARS_MAX else reason[: _REASON_CHARS_MAX - 3] + "..."


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
        """Run a workflow to its end, or hear how it ended; time passes while it sleeps.

        Raises:
            HostError: as it ended; `unavailable` when it waits for what does not come by itself: use `start`.
        """
        run = self.start(payload, **arguments)
        self._node._pass_until(lambda: run.status != "running", None)
        return run.result()

    def start(self, payload: Any = None, /, **arguments: Any) -> TestRun:
        """Start a workflow, or give the run it has; on return it waits for something, or has ended.

        Time passes with `TestNode.advance`.  While it waits, its code is not on any stack: it is begun again later, and
        what it has asked its host for is given to it once more.
        """
        text = host._arguments(arguments if payload is None else payload)
        return self._node._start_run(self.actor_id, text)

    def crash(self, reason: str = "killed") -> None:
        """Let it die between two messages, or while its run waits; it is restarted as after any crash."""
        self._node._end(self._node._living(self.actor_id), Exit(self.actor_id, reason))
        self._node.settle()

    def restart(self, *, keep_state: bool = True) -> None:
        """A new incarnation, with the state of now or from the start."""
        node = self._node
        cell = node._cells[self.actor_id]
        if cell.alive and keep_state:
            cell.saved = node._export(cell, "get_state")
        node._release(cell)
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
        limits: others than the node's defaults, by their names in its configuration: `{"channel_deliveries_max": 2}`.

    Raises:
        ValueError: there is no such limit here; `LIMITS` has them all.
    """

    __test__ = False

    def __init__(
        self, *, seed: int = 0, start_ms: int = START_NS // 1_000_000, limits: Mapping[str, float] | None = None
    ) -> None:
        unknown = set(limits or {}) - set(LIMITS)
        if unknown:
            raise ValueError(f"no limit of the test node: {', '.join(sorted(unknown))} (known: {', '.join(LIMITS)})")
        self.logs: list[LogLine] = []
        self.exits: list[Exit] = []
        self._limits = {**LIMITS, **(limits or {})}
        self._clock = VirtualClock(start_ms)
        self._random = random.Random(seed)
        self._ids = itertools.count(1)
        self._types: dict[str, _Deployed] = {}
        self._cells: dict[str, _Cell] = {}
        self._stack: list[_Cell] = []
        self._ended: deque[tuple[_Cell, Exit, bool]] = deque()
        self._telling = False
        self._groups: dict[str, dict[str, None]] = {}
        self._replies: dict[str, str] = {}
        # Messages of subscriptions that wait in a mailbox, and pushed ones whose handler will reply later.
        self._fed: dict[str, _Feed | _Push] = {}
        self._deferred: dict[str, tuple[_Push, Delivery]] = {}
        quotas = Quotas(self._limits)
        self._keyvalues = KeyValues(self._clock, self._limits, quotas)
        self._locks = Locks(self._clock, quotas)
        self._blobs = Blobs(self._clock, self._limits, quotas)
        self._space = TupleSpace(self._clock, self._limits, quotas)
        self._channels = Channels(self._clock, self._limits, quotas)
        self._streams = Streams(self._clock, self._limits, quotas)
        self._links = Links(self)
        self._credentials = Credentials(self._links)
        self._workflows = Workflows(self)
        self._promise_waiters: dict[str, list[Waiter]] = {}

    # -- for tests ---------------------------------------------------------------------------------------

    def deploy(
        self,
        actor_type: str,
        actor_class: type,
        *,
        shared_keys: bool = False,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a class known under a type, so that actors can spawn it.

        Those of a workflow, and of a class with the facet `virtual_actor`, then exist by being named; here they stay
        in memory.

        Args:
            shared_keys: its actors have one key-value space together.
            args: for the init handler of those that exist by being named.

        Raises:
            DefinitionError: the class is no actor.
        """
        definition = ActorDefinition.of(actor_class)
        self._types[actor_type] = _Deployed({"": definition}, "", shared_keys, json.dumps(dict(args or {})))

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
        scopes: Iterable[str] = (),
    ) -> Any:
        """Send a message from outside, as a caller with these roles and scopes, and return the reply.

        Raises:
            HostError: with the code a caller would see.
        """
        caller = {"subject": subject, "roles": sorted(roles), "session": session, "scopes": sorted(scopes)}
        return self._from_outside(to, types.MessageKind.CALL, op, payload, timeout_ms=timeout_ms, caller=caller)

    def tell(
        self, to: str, op: str, payload: Any = None, *, subject: str = "tester", roles: Iterable[str] = ()
    ) -> None:
        """Send a message from outside; it and all it causes are done on return."""
        caller = {"subject": subject, "roles": sorted(roles)}
        self._from_outside(to, types.MessageKind.CAST, op, payload, caller=caller)

    def advance(self, seconds: float) -> None:
        """Let time pass; what is due happens in order, each with its consequences: timers, ends of leases, delays."""
        if seconds < 0:
            raise ValueError("time does not go back")
        end_ns = self._clock.elapsed_ns + round(seconds * 1e9)
        while (due_ns := self._clock.next_due_ns()) is not None and due_ns <= end_ns:
            self._clock.pass_until(due_ns)
            self.settle()
        self._clock.pass_until(end_ns)

    def crash(self, actor_id: str, *, at_call: int) -> None:
        """Let a workflow's actor die in the middle of its run, instead of asking its host for something.

        Args:
            at_call: the how manieth time from now that it asks; recovery is at once, unless the actor is not restarted.

        Raises:
            HostError: it has no run under way.
        """
        if at_call < 1:
            raise ValueError("calls are counted from 1 on")
        with self._translated():
            self._workflows.crash(actor_id, at_call)

    def promises(self) -> list[TestPromise]:
        """The promises there are, in the order they were made."""
        return self._workflows.promises()

    def resolve(self, promise_id: str, value: Any = None) -> None:
        """Resolve a promise, as a person does; what follows is done on return.

        Raises:
            HostError: `not-found`, or `conflict` when it has another value already.
        """
        with self._translated():
            self._workflows.resolve(promise_id, host._value(value))
        self.settle()

    def http(
        self, link: str, answer: Callable[[TestRequest], Any] | Iterable[Any], *, timeout_s: float = 120.0
    ) -> TestLink:
        """Be the outside world behind a service link.

        Args:
            link: its name.
            answer: gets each request, and gives a `TestAnswer`, a body (text, bytes, or data as JSON), a status and a
                body, None for 204, or a `HostError`, which may also be raised; or a list of such, one after the other.
            timeout_s: the link's `total_timeout_s`: virtual seconds.

        Returns:
            The link, which has the requests.
        """
        return self._links.put(link, answer, timeout_s)

    @property
    def now_ms(self) -> int:
        """The virtual wall clock."""
        return self.now_ns // 1_000_000

    def settle(self) -> None:
        """Deliver what waits in mailboxes until nothing does."""
        if not self._stack:
            self._let_others_run(lambda: False)

    # -- the stores, for tests ---------------------------------------------------------------------------

    def kv(self, actor_id: str) -> dict[str, Any]:
        """What an actor keeps in key-value, by key in ascending order; a copy."""
        return self._keyvalues.living(self._keys_of(actor_id))

    def tuples(self, pattern: Sequence[Any] | None = None) -> list[list[Any]]:
        """The tuples that are there, oldest first; copies.

        Args:
            pattern: only those that match, as for `host.ts.read`.
        """
        with self._translated():
            return self._space.living(None if pattern is None else host._pattern(pattern))

    def channel(self, name: str) -> TestChannel:
        """A channel: its depth, what waits, its dead letters."""
        return TestChannel(self, name)

    def stream(self, path: str) -> TestStream:
        """An event stream: its events, and the operator's `pause` and `resume`."""
        with self._translated():
            check_path(path)
        return TestStream(self, path)

    def lock(self, name: str) -> host.Lease | None:
        """Who has a lock now."""
        held = self._locks.holder(name)
        return None if held is None else host.Lease(name, held.lock_id, held.token, held.expires_ms)

    def blob(self, name: str) -> bytes | None:
        """The bytes of a blob."""
        with self._translated():
            blob = self._blobs.stat(name)
        return None if blob is None else blob.data

    def put_blob(self, name: str, data: bytes, content_type: str = "") -> None:
        """Put a blob of any size, as a client does over HTTP."""
        with self._translated():
            self._blobs.keep(name, data, content_type)

    # -- time --------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """The virtual wall clock, nanoseconds since 1970."""
        return self._clock.now_ns

    def _fire(self, timer: _Timer) -> None:
        cell = timer.cell
        if cell.timers.get(timer.id) is timer:
            envelope = self._envelope(types.MessageKind.INFO, timer.op, timer.payload, cell.actor_id, timer.context)
            cell.told[envelope.id] = ("timer", timer.id)
            cell.mailbox.append(envelope)

    def _arm(self, timer: _Timer) -> None:
        self._clock.call_at(timer.due_ns, lambda: self._fire(timer))

    def _wait(self, cell: _Cell, waiter: Waiter, give_up: Callable[[], None]) -> Any:
        """What a handler gets that waits for something in a store; None when its time is over."""
        cell.waits = True
        try:
            while not waiter.done and self._clock.elapsed_ns < waiter.deadline_ns:
                self._let_others_run(lambda: waiter.done or cell.doomed is not None)
                if waiter.done or cell.doomed is not None:
                    break
                due_ns = self._clock.next_due_ns()
                self._clock.pass_until(waiter.deadline_ns if due_ns is None else min(due_ns, waiter.deadline_ns))
        finally:
            cell.waits = False
            give_up()
        if cell.doomed is not None:
            raise _Killed
        return waiter.outcome

    def _until_ns(self, cell: _Cell, timeout_ms: int) -> int:
        """The end of a wait: its own, or that of whoever waits for the actor."""
        own_ns = self._clock.elapsed_ns + timeout_ms * NS_PER_MS
        return own_ns if cell.deadline_ns is None else min(own_ns, cell.deadline_ns)

    def _let_others_run(self, enough: Callable[[], bool]) -> None:
        """Deliver what waits in mailboxes of actors that are not busy, until nothing does or it is enough."""
        for _ in range(DELIVERIES_MAX):
            if enough():
                return
            ready = (cell for cell in self._cells.values() if cell.alive and (cell.notices or cell.mailbox))
            cell = next((cell for cell in ready if cell not in self._stack and not self._workflows.busy(cell)), None)
            if cell is None:
                if self._workflows.go_on():
                    continue
                return
            self._deliver_next(cell)
        raise RuntimeError(f"actors still send to one another after {DELIVERIES_MAX} messages: does one never stop?")

    def _claim(self, cell: _Cell, envelope: Any) -> bool:
        """A message of the node's has come to be handled; False when it is void."""
        what, of = cell.told.pop(envelope.id, ("", ""))
        if what == "timer":
            timer = cell.timers[of]
            if timer.interval_ns:
                # The next tick on the grid of the first: those that came while this one waited are skipped.
                timer.due_ns += timer.interval_ns * (1 + (self._clock.elapsed_ns - timer.due_ns) // timer.interval_ns)
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
        kinds = types.MessageKind
        envelope.kind = self._workflows.kind(cell, envelope.kind, envelope.op)
        envelope.payload = self._veiled(cell, envelope.kind, envelope.op, envelope.payload)
        self._check_access(cell, envelope.kind, envelope.op, envelope.context)
        if envelope.kind is kinds.RUN:
            self._workflows.start(cell, envelope)
        elif envelope.kind is not kinds.SIGNAL or not self._workflows.signal(cell, envelope):
            cell.mailbox.append(envelope)

    def _veiled(self, cell: _Cell, kind: Any, op: str, payload: str) -> str:
        """A payload as its receiver may see it."""
        return self._credentials.drawn(cell.actor_id, _handler(cell.definition, kind, op), payload)

    def _check_access(self, cell: _Cell, kind: Any, op: str, context: str) -> None:
        """What the node asks before it lets a message in; what an actor has it tell itself it does not ask about."""
        known = _handler(cell.definition, kind, op)
        if known is None or not known.roles or Context.parse(context).meets(known.roles):
            return
        roles = sorted(each for each in known.roles if not each.startswith("scope:"))
        scopes = sorted(each.removeprefix("scope:") for each in known.roles if each.startswith("scope:"))
        needed = " or the ".join([f"role {each!r}" for each in roles] + [f"scope {each!r}" for each in scopes])
        message = f"operation {op!r} of actor {cell.actor_id!r} needs the {needed} (its handler says so)"
        raise contract_error(
            "permission-denied", message, operation=op, actor=cell.actor_id, roles=roles, scopes=scopes
        )

    def _start_run(self, actor_id: str, payload: str) -> TestRun:
        self.settle()
        with self._translated():
            cell = self._find(actor_id)
            if cell.definition.behaviour != "Workflow":
                raise contract_error("invalid-argument", f"{actor_id} is no workflow")
            context = json.dumps({"subject": "tester", "roles": []})
            payload = self._veiled(cell, types.MessageKind.RUN, "run", payload)
            run = self._workflows.start(cell, self._envelope(types.MessageKind.RUN, "run", payload, "", context))
        self.settle()
        return TestRun(self, run)

    def _pass_until(self, enough: Callable[[], bool], deadline_ns: int | None) -> None:
        """Let others run and time pass until it is enough, the deadline has come, or nothing is due any more."""
        while True:
            self._let_others_run(enough)
            due_ns = self._clock.next_due_ns()
            if enough() or (due_ns is None and deadline_ns is None):
                return
            end_ns = min(due for due in (due_ns, deadline_ns) if due is not None)
            self._clock.pass_until(end_ns)
            if end_ns == deadline_ns:
                self._let_others_run(enough)
                return

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
        kind = self._workflows.kind(cell, kind, op)
        payload = self._veiled(cell, kind, op, payload)
        self._check_access(cell, kind, op, json.dumps(context))
        if kind is types.MessageKind.QUERY:
            envelope = self._envelope(kind, op, payload, sender, json.dumps(context))
            if (answer := self._workflows.query(cell, envelope)) is not None:
                return answer
        if kind is types.MessageKind.SIGNAL:
            envelope = self._envelope(kind, op, payload, sender, json.dumps(context))
            if self._workflows.signal(cell, envelope):
                return "null"
        busy = [other.actor_id for other in self._stack]
        if cell.actor_id in busy:
            at = busy.index(cell.actor_id)
            waiting = [other.actor_id for other in self._stack[at:] if other.waits]
            if waiting:
                raise contract_error(
                    "unavailable",
                    f"{cell.actor_id} cannot answer before {waiting[-1]} has what it waits for in a store, because the "
                    "test node runs all actors on one stack: on a node, the ask would wait",
                )
            cycle = [*busy[at:], cell.actor_id]
            raise contract_error("deadlock", f"this ask would wait for itself: {' -> '.join(cycle)}", cycle=cycle)
        own = self._clock.elapsed_ns + (timeout_ms or ASK_TIMEOUT_MS) * 1_000_000
        deadline = own if deadline_ns is None else min(own, deadline_ns)
        late = contract_error("deadline-exceeded", f"{to} did not answer {op!r} in time; the work may have been done")
        if kind is types.MessageKind.RUN:
            run = self._workflows.start(cell, self._envelope(kind, op, payload, sender, json.dumps(context)))
            self._pass_until(lambda: not run.running, deadline)
            if run.running:
                raise late
            return self._workflows.outcome(run)
        context = {**context, "deadline_ms": (self._clock.now_ns + deadline - self._clock.elapsed_ns) // 1_000_000}
        envelope = self._envelope(kind, op, payload, sender, json.dumps(context))
        while cell.alive and (cell.notices or cell.mailbox or self._workflows.busy(cell)):
            # What came first is handled first.
            if not self._workflows.busy(cell):
                self._deliver_next(cell)
                continue
            self._pass_until(lambda: not self._workflows.busy(cell), deadline)
            if self._workflows.busy(cell):
                raise late
        if not cell.alive:
            raise contract_error("actor-exited", f"{to} ended before it came to the message")
        try:
            reply = self._run(cell, envelope, deadline)
        except _Failed as failed:
            raise self._caller_error(cell, failed.failure) from None
        if self._clock.elapsed_ns > deadline:
            raise late
        if reply is None:
            self.settle()
            if envelope.id not in self._replies:
                raise contract_error(
                    "deadline-exceeded", f"{to} returned NO_REPLY to {op!r}, and nobody called host.reply"
                )
            reply = self._replies.pop(envelope.id)
        return reply

    def _caller_error(self, cell: _Cell, failure: Any) -> Exception:
        if failure.kind is types.FailureKind.REFUSED:
            details = {**json.loads(failure.details), "reason": failure.code}
            return contract_error("handler-refused", failure.message, **details)
        return contract_error("handler-crashed", f"{cell.actor_id} crashed: {failure.message}", type=failure.code)

    def _deliver_next(self, cell: _Cell) -> None:
        envelope = (cell.notices or cell.mailbox).popleft()
        fed = self._fed.pop(envelope.id, None)
        if fed is not None and not fed.claim(envelope.id):
            return
        push = fed if isinstance(fed, _Push) else None
        # Before the handler, which may settle this one itself and so be given the next.
        delivery = push.delivery if push is not None else None
        assert push is not None or envelope.kind is not types.MessageKind.CALL, "other calls are run at once"
        if envelope.kind is types.MessageKind.INFO and not self._claim(cell, envelope):
            return
        if envelope.kind is types.MessageKind.RUN:
            self._workflows.begin(cell)
            return
        try:
            reply = self._run(cell, envelope, None)
        except Err:
            pass  # it was ended in the middle: nobody waits for an answer
        except _Failed as failed:
            if failed.failure.kind is types.FailureKind.REFUSED:
                line = f"refused {envelope.op!r}: {failed.failure.message}"
                self.logs.append(LogLine(cell.actor_id, "warn", line))
                if push is not None and delivery is not None:
                    push.settle(delivery, failed.failure.message)
        else:
            if push is None or delivery is None:
                return
            if reply is None:
                self._deferred[envelope.id] = (push, delivery)
            else:
                push.settle(delivery, None)

    def _run(self, cell: _Cell, envelope: Any, deadline_ns: int | None) -> str | None:
        cell.deadline_ns = deadline_ns
        cell.context = json.loads(envelope.context) if envelope.context else {}
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
            raise contract_error("actor-exited", f"actor {cell.actor_id!r} ended ({doomed.text}) before it replied")
        if cell.durable and cell.alive:
            cell.saved = self._export(cell, "get_state")
        if cell.stopping is not None:
            self._stop(cell, cell.stopping)
        return reply

    def _export(self, cell: _Cell, name: str, *args: Any) -> Any:
        """Call one export, with the cell's imports in place."""
        try:
            return self._call(cell, name, *args)
        except Err as failure:
            raise _Failed(failure.value) from None

    def _call(self, cell: _Cell, name: str, *args: Any) -> Any:
        before = _imports.bind(cell.imports)
        self._stack.append(cell)
        try:
            return getattr(cell.world(), name)(*args)
        finally:
            self._stack.pop()
            _imports.bind(before)

    # -- life --------------------------------------------------------------------------------------------

    def _find(self, actor_id: str) -> _Cell:
        cell = self._cells.get(actor_id)
        if cell is None:
            actor_type = actor_id.partition("/")[0]
            deployed = self._types.get(actor_type)
            if deployed is not None and deployed.by_name:
                return self._spawn(actor_type, actor_id, deployed.args, "{}", restart=True)
        if cell is None or not cell.alive:
            raise contract_error("actor-not-found", f"there is no actor {actor_id!r}")
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
            raise contract_error("actor-not-found", f"no type {actor_type!r} is deployed (deployed: {known})")
        old = self._cells.get(actor_id)
        if old is not None and old.alive:
            raise contract_error("already-exists", f"{actor_id} runs already")
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
            raise contract_error("handler-crashed", f"{actor_id} could not start: {failed.failure.message}") from None
        return cell

    def _start(self, cell: _Cell, *, keep_state: bool) -> None:
        restored = keep_state and cell.saved is not None
        config = types.InitConfig(cell.actor_id, cell.deployed.role, cell.args, restored, cell.facets)
        cell.born = _Born(config, cell.saved if restored else None, Record())
        cell.alive = True
        try:
            self._renew(cell)
        except _Failed as failed:
            self._end(cell, cell.doomed or _crash(cell, failed.failure), restart=False)
            raise
        cell.spawner = ""
        if cell.durable:
            cell.saved = self._export(cell, "get_state")
        self._workflows.recovered(cell)

    def _renew(self, cell: _Cell) -> None:
        """Make the instance, as it was made before if it was."""
        assert cell.born is not None
        cell.world = make_world(cell.deployed.definitions, types, Err, version=__version__)
        self._workflows.initialise(cell, cell.born.config, cell.born.state, cell.born.record)

    def _kill_busy(self, cell: _Cell) -> None:
        self._doom(cell, Exit(cell.actor_id, "killed"))

    def _die_in_call(self, cell: _Cell) -> NoReturn:
        """Let an actor die while it waits for its host."""
        self._kill_busy(cell)
        run = self._workflows.executing(cell)
        if run is None:
            raise _Killed
        run.left = True
        raise Left

    def _crashed(self, cell: _Cell, failure: Any) -> None:
        self._end(cell, _crash(cell, failure))

    def _diverged(self, cell: _Cell, problem: str) -> None:
        self._end(cell, Exit(cell.actor_id, "nondeterminism", problem), restart=False)

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
        self._release(cell)
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
            try:
                self._start(cell, keep_state=cell.durable)
            except _Failed as failed:
                # What a supervisor would hear; here the exit that `_start` has noted says it.
                self.logs.append(LogLine(cell.actor_id, "error", f"could not restart: {failed.failure.message}"))

    def _release(self, cell: _Cell) -> None:
        """Take an actor out of the stores: it waits for nothing, hears of nothing, and what it leased is another's."""
        feeds, cell.feeds = cell.feeds, {}
        for feed in feeds.values():
            feed.end()
        self._space.forget(cell)
        self._channels.forget(cell)
        self._locks.forget(cell)
        self._links.forget(cell)

    def _keys_of(self, actor_id: str) -> str:
        """Whose key-value space an actor's is: no actor is called like a type's own."""
        actor_type = actor_id.partition("/")[0]
        deployed = self._types.get(actor_type)
        return f"*{actor_type}" if deployed is not None and deployed.shared_keys else actor_id

    def _refuse_more(self, cell: _Cell, limit: str, used: int) -> None:
        if used >= self._limits[limit]:
            raise contract_error(
                "limit-exceeded",
                f"actor {cell.actor_id!r} has {used}, as many as it may: see {limit}",
                limit=limit,
                value=self._limits[limit],
            )

    def _doom(self, cell: _Cell, exit_: Exit) -> None:
        """End an actor whatever it is doing: once its handler is off the stack, for this is plain Python."""
        if cell not in self._stack:
            self._end(cell, exit_)
        elif cell.doomed is None:
            cell.doomed = exit_
            self._release(cell)

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
            raise _calls.failure(failure.value) from None


def _handler(definition: ActorDefinition, kind: Any, op: str) -> Handler | None:
    """Who takes a message, if it is one that others send."""
    kinds = types.MessageKind
    if kind is kinds.RUN:
        return definition.run
    if kind is kinds.INFO:
        return None
    tables = {
        kinds.CALL: definition.calls,
        kinds.CAST: definition.casts,
        kinds.SIGNAL: definition.signals,
        kinds.QUERY: definition.queries,
    }
    return tables[kind].get(op) or tables[kind].get("*")


class TestChannel:
    """A channel as a test sees it."""

    __test__ = False

    def __init__(self, node: TestNode, name: str) -> None:
        self._node = node
        self.name = name

    @property
    def depth(self) -> int:
        """How many messages wait, delayed ones included."""
        with self._node._translated():
            return self._node._channels.depth(self.name)

    @property
    def leased(self) -> int:
        """How many messages an actor has and has not settled."""
        return self._node._channels.leased(self.name)

    @property
    def waiting(self) -> list[Any]:
        """The payloads that wait, in order."""
        return self._node._channels.waiting(self.name)

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The messages that are not delivered any more, oldest first."""
        return self._node._channels.dead_letters(self.name)

    def send(self, msg_type: str, payload: Any = None) -> str:
        """Queue a message, so that a consumer can be tested without its producer; its id.

        It and all it causes are done on return.
        """
        with self._node._translated():
            sent = self._node._channels.send(self.name, msg_type, host._arguments(payload), 0, 0, "")
        self._node.settle()
        return sent


class TestStream:
    """An event stream as a test sees it."""

    __test__ = False

    def __init__(self, node: TestNode, path: str) -> None:
        self._node = node
        self.path = path

    @property
    def events(self) -> list[dict[str, Any]]:
        """All that are kept: `offset`, `event_type`, `payload`, `time_ms`."""
        return [
            {
                "offset": event.offset,
                "event_type": event.event_type,
                "payload": json.loads(event.payload),
                "time_ms": event.time_ms,
            }
            for event in self._node._streams.events(self.path)
        ]

    @property
    def flow(self) -> str:
        """`flowing`, `tripped` (by the breaker) or `held` (by an operator)."""
        return self._node._streams.flow(self.path).value

    def append(self, event_type: str, payload: Any = None, idempotency_key: str = "") -> int:
        """Append an event, as a client does over HTTP; its offset.  It and all it causes are done on return."""
        with self._node._translated():
            offset = self._node._streams.append(self.path, event_type, host._arguments(payload), idempotency_key)
        self._node.settle()
        return offset

    def pause(self) -> bool:
        """Pause it, as an operator does; False when one has done so already."""
        with self._node._translated():
            paused = self._node._streams.pause(self.path, "tester")
        self._node.settle()
        return paused

    def resume(self) -> bool:
        """Let it go on; False when it was not paused."""
        with self._node._translated():
            resumed = self._node._streams.resume(self.path, "tester")
        self._node.settle()
        return resumed


# -- subscriptions -------------------------------------------------------------------------------------------

# What the ids of an interface's subscriptions begin with.
_SUBSCRIPTIONS: Final[Mapping[str, str]] = {
    "tuplespace": "tuple-subscription-",
    "channels": "channel-subscription-",
    "streams": "stream-subscription-",
}


class _Feed:
    """What a subscription tells its actor: at most one message of it waits in the mailbox.

    Args:
        following: the next message's arguments; None while there is none.

    Attributes:
        on_end: takes the subscription out of its store.
    """

    def __init__(self, node: TestNode, cell: _Cell, op: str, following: Callable[[], str | None]) -> None:
        self._node = node
        self._cell = cell
        self._op = op
        self._following = following
        self._context = json.dumps(_inherited(cell.context))
        self._waits = ""
        self._live = True
        self.on_end: Callable[[], None] = lambda: None

    def pump(self) -> None:
        """Put the next message into the mailbox, unless one waits there."""
        if not self._live or self._waits:
            return
        payload = self._following()
        if payload is not None:
            envelope = self._node._envelope(types.MessageKind.CAST, self._op, payload, "", self._context)
            self._waits = envelope.id
            self._node._fed[envelope.id] = self
            self._cell.mailbox.append(envelope)

    def claim(self, message_id: str) -> bool:
        """Its message is about to be handled; False when it is void."""
        if not self._live or self._waits != message_id:
            return False
        self._waits = ""
        self.pump()
        return True

    def end(self) -> None:
        """Tell no more, and make void what waits."""
        self._live = False
        self.on_end()


class _Push:
    """A subscription to a channel: a message becomes a call, and the call's outcome settles it.

    Attributes:
        delivery: the message that its actor has, at most one.
        on_end: takes the subscription out of its store.
    """

    def __init__(self, node: TestNode, cell: _Cell, channel: str, op: str) -> None:
        self._node = node
        self._cell = cell
        self._channel = channel
        self._op = op
        self._context = json.dumps(_inherited(cell.context))
        self.delivery: Delivery | None = None
        self._waits = ""
        self._live = True
        self.on_end: Callable[[], None] = lambda: None

    def deliver(self, delivery: Delivery) -> None:
        """A message is the actor's until it is settled."""
        self.delivery = delivery
        # Spliced, not parsed and printed: a number of any length stays what it was.
        payload = (
            f'{{"channel":{json.dumps(self._channel)},"id":"{delivery.id}","msg_type":{json.dumps(delivery.msg_type)},'
            f'"payload":{delivery.payload},"deliveries":{delivery.deliveries},"enqueued_ms":{delivery.enqueued_ms}}}'
        )
        envelope = self._node._envelope(types.MessageKind.CALL, self._op, payload, "", self._context)
        self._waits = envelope.id
        self._node._fed[envelope.id] = self
        self._cell.mailbox.append(envelope)

    def claim(self, message_id: str) -> bool:
        """Its message is about to be handled; False when it is void."""
        delivery = self.delivery
        if not self._live or delivery is None or self._waits != message_id:
            return False
        self._waits = ""
        return self._node._channels.begin(self._channel, delivery.id, self._cell)

    def settle(self, delivery: Delivery, refused: str | None) -> None:
        """The call has ended: with a reply, which is the ack, or with a refusal."""
        if self.delivery is not delivery:
            return
        self.delivery = None
        try:
            if refused is None:
                self._node._channels.ack(self._channel, delivery.id, self._cell)
            else:
                self._node._channels.nack(self._channel, delivery.id, self._cell, why=refused)
        except Err:
            # The handler has settled it itself, or the actor has ended.
            return

    def give_back(self) -> None:
        """The subscription has ended; what its actor has not begun with is another's."""
        if self._waits and self.delivery is not None:
            self._waits = ""
            self.settle(self.delivery, "the subscription ended before it was handled")

    def end(self) -> None:
        """Push no more, and make void what waits."""
        self._live = False
        self.on_end()


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
            raise contract_error("unavailable", f"{interface} is not part of the test node")

        return unavailable

    def _end_feed(self, subscription_id: str) -> bool:
        """End a subscription that this interface has made; False when the actor has no such one."""
        prefix = _SUBSCRIPTIONS[self.name]
        feed = self._cell.feeds.pop(subscription_id, None) if subscription_id.startswith(prefix) else None
        if feed is not None:
            feed.end()
        return feed is not None


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
        deferred = self._node._deferred.pop(message_id, None)
        if deferred is None:
            self._node._replies[message_id] = payload
            return
        push, delivery = deferred
        push.settle(delivery, None)


# What a message passes on to those it causes.
_CONTEXT_OF_A_CALLER = ("subject", "roles", "scopes", "session", "trace")


def _inherited(context: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in context.items() if name in _CONTEXT_OF_A_CALLER}


class _Lifecycle(_Interface):
    name = "lifecycle"

    def self_id(self) -> str:
        return self._cell.actor_id

    def spawn(self, options: Any) -> Any:
        node, cell = self._node, self._cell
        key = options.key or f"t{next(node._ids)}"
        actor_id = options.actor_type if key == "default" else f"{options.actor_type}/{key}"
        if not isinstance(json.loads(options.args), dict):
            raise contract_error("invalid-argument", "the arguments of a new actor are a JSON object")
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
        self._node._refuse_more(cell, "monitors_per_actor_max", len(cell.watching) + len(cell.told_of("DOWN")))
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
        self._node._refuse_more(cell, "links_per_actor_max", len(cell.links) + len(cell.told_of("EXIT")))


class _Timers(_Interface):
    name = "timers"

    def send_after(self, delay_ms: int, op: str, payload: str) -> str:
        return self._add(delay_ms, op, payload, 0)

    def send_interval(self, interval_ms: int, op: str, payload: str) -> str:
        if interval_ms < 1:
            raise contract_error("invalid-argument", "an interval is at least 1 ms")
        return self._add(interval_ms, op, payload, interval_ms * 1_000_000)

    def _add(self, delay_ms: int, op: str, payload: str, interval_ns: int) -> str:
        node, cell = self._node, self._cell
        if delay_ms > _DELAY_MS_MAX:
            raise contract_error("invalid-argument", f"{delay_ms} ms is too much: at most a year")
        self._node._refuse_more(cell, "timers_per_actor_max", len(cell.timers))
        due_ns = node._clock.elapsed_ns + delay_ms * NS_PER_MS
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
        return self._node._clock.elapsed_ns

    def sleep_ns(self, duration_ns: int) -> None:
        clock = self._node._clock
        end_ns = clock.elapsed_ns + duration_ns
        if self._cell.deadline_ns is not None:
            # One tick past the deadline: the caller is gone by then.
            end_ns = min(end_ns, max(self._cell.deadline_ns + 1, clock.elapsed_ns))
        clock.pass_until(end_ns)


class _Random(_Interface):
    name = "random"

    def random_hex(self, count: int) -> str:
        if count > _RANDOM_BYTES_MAX:
            raise contract_error(
                "limit-exceeded", f"at most {_RANDOM_BYTES_MAX} bytes at once", limit="random_bytes_max"
            )
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
        check_text("the name of a group", group)
        members = self._node._groups.setdefault(group, {})
        if self._cell.actor_id not in members:
            joined = sum(self._cell.actor_id in others for others in self._node._groups.values())
            self._node._refuse_more(self._cell, "groups_per_actor_max", joined)
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
            raise contract_error(
                "invalid-argument", f"limit = {query.limit} is too much: at most {_ENTRIES_MAX} entries"
            )
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
        check_text("the name of a label", name)
        if "=" in name:
            raise contract_error("invalid-argument", "the name of a label cannot hold '='")
        labels = self._cell.labels
        if not value:
            labels.pop(name, None)
            return
        check_text("the value of a label", value)
        if name not in labels:
            self._node._refuse_more(self._cell, "labels_per_actor_max", len(labels))
        labels[name] = value


class _KeyValue(_Interface):
    name = "keyvalue"

    def get(self, key: str) -> str | None:
        return self._node._keyvalues.get(self._owner, key)

    def put(self, key: str, value: str, ttl_ms: int | None) -> None:
        self._node._keyvalues.put(self._owner, key, value, ttl_ms)

    def delete(self, key: str) -> bool:
        return self._node._keyvalues.delete(self._owner, key)

    def list_keys(self, prefix: str, cursor: str, limit: int) -> Any:
        return self._bindings.Page(*self._node._keyvalues.list_keys(self._owner, prefix, cursor, limit))

    def compare_and_set(self, key: str, expected: str | None, value: str | None) -> bool:
        return self._node._keyvalues.compare_and_set(self._owner, key, expected, value)

    def increment(self, key: str, delta: int) -> int:
        return self._node._keyvalues.increment(self._owner, key, delta)

    @property
    def _owner(self) -> str:
        return self._node._keys_of(self._cell.actor_id)


class _Tuplespace(_Interface):
    name = "tuplespace"

    def write(self, fields: str, lease_ms: int | None) -> str:
        return self._node._space.write(fields, lease_ms)

    def read(self, pattern: str, timeout_ms: int) -> str | None:
        return self._find(pattern, timeout_ms, takes=False)

    def take(self, pattern: str, timeout_ms: int) -> str | None:
        return self._find(pattern, timeout_ms, takes=True)

    def read_all(self, pattern: str, limit: int) -> list[str]:
        return self._node._space.find_all(pattern, limit, takes=False)

    def take_all(self, pattern: str, limit: int) -> list[str]:
        return self._node._space.find_all(pattern, limit, takes=True)

    def count(self, pattern: str) -> int:
        return self._node._space.count(pattern)

    def subscribe(self, pattern: str, op: str) -> str:
        check_text("the operation", op)
        matches: deque[str] = deque()
        feed = _Feed(self._node, self._cell, op, lambda: f'{{"fields":{matches.popleft()}}}' if matches else None)

        def matched(fields: str) -> None:
            matches.append(fields)
            feed.pump()

        made = self._node._space.subscribe(self._cell, pattern, matched, lambda: len(matches))
        feed.on_end = lambda: self._node._space.unsubscribe(made)
        self._cell.feeds[made] = feed
        return made

    def unsubscribe(self, subscription_id: str) -> bool:
        return self._end_feed(subscription_id)

    def _find(self, pattern: str, timeout_ms: int, *, takes: bool) -> str | None:
        node, cell = self._node, self._cell
        found = node._space.find(pattern, takes=takes)
        if found is not None or not timeout_ms:
            return found
        waiter = node._space.wait(cell, pattern, node._until_ns(cell, timeout_ms), takes=takes)
        text: str | None = node._wait(cell, waiter, lambda: node._space.give_up(waiter))
        return text


class _Channels(_Interface):
    name = "channels"

    def send(self, channel: str, msg_type: str, payload: str, options: Any) -> str:
        return self._node._channels.send(channel, msg_type, payload, options.delay_ms, options.ttl_ms, options.dedup_id)

    def receive(self, channel: str, timeout_ms: int, visibility_ms: int) -> Any:
        node, cell = self._node, self._cell
        found = node._channels.receive(channel, cell, visibility_ms)
        if found is None and timeout_ms:
            waiter = node._channels.wait(channel, cell, visibility_ms, node._until_ns(cell, timeout_ms))
            found = node._wait(cell, waiter, lambda: node._channels.give_up(waiter))
        if found is None:
            return None
        return self._bindings.Message(found.id, found.msg_type, found.payload, found.deliveries, found.enqueued_ms)

    def ack(self, channel: str, message_id: str) -> None:
        self._node._channels.ack(channel, message_id, self._cell)

    def nack(self, channel: str, message_id: str, requeue: bool, delay_ms: int) -> None:
        self._node._channels.nack(channel, message_id, self._cell, requeue=requeue, delay_ms=delay_ms)

    def extend(self, channel: str, message_id: str, visibility_ms: int) -> None:
        self._node._channels.extend(channel, message_id, self._cell, visibility_ms)

    def depth(self, channel: str) -> int:
        return self._node._channels.depth(channel)

    def subscribe(self, channel: str, op: str) -> str:
        check_text("the operation", op)
        push = _Push(self._node, self._cell, channel, op)
        made = self._node._channels.subscribe(channel, self._cell, push.deliver)
        push.on_end = lambda: self._node._channels.unsubscribe(made)
        self._cell.feeds[made] = push
        return made

    def unsubscribe(self, subscription_id: str) -> bool:
        push = self._cell.feeds.get(subscription_id)
        if not self._end_feed(subscription_id):
            return False
        assert isinstance(push, _Push)
        push.give_back()
        return True


class _Locks(_Interface):
    name = "locks"

    def acquire(self, name: str, ttl_ms: int, wait_ms: int) -> Any:
        node, cell = self._node, self._cell
        held = node._locks.acquire(name, ttl_ms, wait_ms)
        if held is None and wait_ms:
            waiter = node._locks.wait(cell, name, ttl_ms, node._until_ns(cell, wait_ms))
            held = node._wait(cell, waiter, lambda: node._locks.give_up(waiter))
        return None if held is None else self._lease(held)

    def renew(self, name: str, lock_id: str, ttl_ms: int) -> Any:
        return self._lease(self._node._locks.renew(name, lock_id, ttl_ms))

    def release(self, name: str, lock_id: str) -> bool:
        return self._node._locks.release(name, lock_id)

    def _lease(self, held: Held) -> Any:
        return self._bindings.Lease(held.lock_id, held.token, held.expires_ms)


class _Blobs(_Interface):
    name = "blobs"

    def put(self, name: str, base64: str, content_type: str) -> Any:
        return self._info(self._node._blobs.put(name, base64, content_type))

    def get(self, name: str) -> str | None:
        return self._node._blobs.get(name)

    def get_range(self, name: str, offset: int, length: int) -> str | None:
        return self._node._blobs.get_range(name, offset, length)

    def stat(self, name: str) -> Any:
        blob = self._node._blobs.stat(name)
        return None if blob is None else self._info(blob)

    def delete(self, name: str) -> bool:
        return self._node._blobs.delete(name)

    def list_blobs(self, prefix: str, cursor: str, limit: int) -> list[Any]:
        return [self._info(blob) for blob in self._node._blobs.list_blobs(prefix, cursor, limit)]

    def _info(self, blob: Blob) -> Any:
        return self._bindings.BlobInfo(blob.name, len(blob.data), blob.content_type, blob.sha256, blob.modified_ms)


class _Streams(_Interface):
    name = "streams"

    def append(self, path: str, event_type: str, payload: str, idempotency_key: str) -> int:
        return self._node._streams.append(path, event_type, payload, idempotency_key)

    def read(self, path: str, after: int, limit: int) -> list[Any]:
        return [
            self._bindings.Event(event.offset, event.event_type, event.payload, event.time_ms)
            for event in self._node._streams.read(path, after, limit)
        ]

    def subscribe(self, path: str, after: int, op: str) -> str:
        node, cell = self._node, self._cell
        check_path(path)
        check_text("the operation", op)
        theirs = sum(name.startswith(_SUBSCRIPTIONS[self.name]) for name in cell.feeds)
        node._refuse_more(cell, "stream_subscriptions_per_actor_max", theirs)
        offset = after

        def following() -> str | None:
            nonlocal offset
            for event in node._streams.read(path, offset, 1):
                offset = event.offset
                return _event_message(path, event)
            return None

        feed = _Feed(node, cell, op, following)
        feed.on_end = node._streams.watch(path, feed.pump)
        made = f"{_SUBSCRIPTIONS[self.name]}{next(node._ids)}"
        cell.feeds[made] = feed
        feed.pump()
        return made

    def unsubscribe(self, subscription_id: str) -> bool:
        return self._end_feed(subscription_id)


def _event_message(path: str, event: Event) -> str:
    # Spliced, not parsed and printed: a number of any length stays what it was.
    return (
        f'{{"path":{json.dumps(path)},"offset":{event.offset},"event_type":"{event.event_type}",'
        f'"payload":{event.payload},"time_ms":{event.time_ms}}}'
    )


class _Http(_Interface):
    name = "http"

    def fetch(self, request: Any) -> Any:
        status, headers, body = self._node._links.fetch(self._cell, request, self._key(request))
        try:
            return self._bindings.Response(status, json.dumps(headers), body.decode(), False)
        except UnicodeDecodeError:
            return self._bindings.Response(status, json.dumps(headers), base64.b64encode(body).decode(), True)

    def fetch_stream(self, request: Any) -> Any:
        status, headers, stream_id = self._node._links.open(self._cell, request, self._key(request))
        return self._bindings.Response(status, json.dumps(headers), stream_id, False)

    def read_chunk(self, stream_id: str) -> str | None:
        return self._node._links.read(self._cell, stream_id)

    def close(self, stream_id: str) -> None:
        self._node._links.close(self._cell, stream_id)

    def register_credential(self, phantom_token: str, credential: str, links: list[str]) -> str:
        return self._node._credentials.register(phantom_token, credential, links)

    def forget_credential(self, phantom_token: str) -> bool:
        return self._node._credentials.forget(phantom_token)

    def _key(self, request: Any) -> str:
        """A durable actor's request has a key that is the same when it is made again."""
        if not self._cell.durable:
            return ""
        key = self._node._workflows.outside_id(self._cell)
        return f"request-{next(self._node._ids)}" if key is None else f"{key} {crc32(repr(request).encode()):08x}"


_FAKES: Final[dict[str, Any]] = {
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
        _Tuplespace,
        _Channels,
        _Locks,
        _Blobs,
        _Streams,
        _Http,
    )
} | {"workflow": WorkflowInterface}


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
        if self._cell.definition.behaviour == "Workflow":
            value = Recorded(self._node._workflows, self._cell, interface, value)
        setattr(self, interface, value)
        return value
