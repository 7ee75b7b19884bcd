"""A workflow's run as the SDK conducts it: steps, what happens between them, and how it is undone.

Between two steps, and around everything that waits, is a boundary: signals that have come are handed to their handlers,
a request to cancel is raised, and the state is handed to the node, which answers queries from it while the run waits.
Every call into the host is recorded by the node and comes from the record when the run is replayed, so nothing here may
depend on anything else.
"""

from __future__ import annotations

import inspect
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from . import _imports
from ._calls import do
from .errors import Cancelled, HostError, InvalidArgument, Refuse, WorkflowCancelled

_MESSAGE_CHARS_MAX: Final = 1_000
_NAME_BYTES_MAX: Final = 256
UNDOING: Final = " (compensation)"


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that a run has waited for.

    Attributes:
        name: of the signal.
        payload: its arguments by name.
        sender: the actor that sent it, "" when it came from outside.
        id: of the message.
        context: who sent it, JSON text as in an envelope.
    """

    name: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    sender: str = ""
    id: str = ""
    context: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a step is tried: see `host.step`."""

    retries_max: int
    backoff_ms: int
    timeout_ms: int

    def text(self) -> str:
        """The options of the contract."""
        return json.dumps(
            {"retries_max": self.retries_max, "backoff_ms": self.backoff_ms, "timeout_ms": self.timeout_ms}
        )


def undoing(compensate: Callable[..., Any]) -> Callable[[Any], Callable[[], Any]]:
    """From a step's result to what undoes it: a compensation takes the result, or nothing.

    Raises:
        InvalidArgument: it takes something else.  Better now than when it is needed.
    """
    try:
        signature = inspect.signature(compensate)
    except (TypeError, ValueError):
        return lambda value: lambda: compensate(value)
    for arguments in ((None,), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        if arguments:
            return lambda value: lambda: compensate(value)
        return lambda _value: compensate
    raise InvalidArgument("compensate is a function that takes the step's result, or nothing")


class Run:
    """One run of a workflow, on one instance.

    Args:
        save: the actor's state as text.
        take: hands a signal to its handler; answers False when it has none.
        report: writes a line of the log: level and text.
    """

    __slots__ = (
        "_api",
        "_done",
        "_failed",
        "_inbox",
        "_names",
        "_published",
        "_report",
        "_save",
        "_take",
        "_undoing",
        "_within",
        "imports",
    )

    def __init__(
        self, save: Callable[[], str], take: Callable[[Signal], bool], report: Callable[[str, str], None]
    ) -> None:
        self.imports = _imports.current
        self._api = self.imports.workflow
        self._save = save
        self._take = take
        self._report = report
        self._published = ""
        # Signals that no handler takes, for `next_signal`.
        self._inbox: deque[Signal] = deque()
        self._names: set[str] = set()
        # What undoes the steps that are done, in the order they were done.
        self._done: list[tuple[str, Callable[[], Any], Policy]] = []
        # What the author's code is in the middle of: no boundary comes there.
        self._within = ""
        self._undoing = False
        self._failed: tuple[str, BaseException] | None = None

    # -- boundaries --------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Hand the state to the node, if it has changed."""
        state = self._save()
        if state == self._published:
            return
        self._published = state
        self._api.publish_state(state)

    def boundary(self) -> None:
        """Take the signals that have come, and publish the state.

        Raises:
            WorkflowCancelled
        """
        if self._within or self._undoing:
            return
        self._drain()
        self.publish()

    def wait(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what suspends the run, between two boundaries.

        Raises:
            WorkflowCancelled, HostError
        """
        self.boundary()
        result = self._interruptible(function, *args)
        self.boundary()
        return result

    def next_signal(self, timeout_ms: int) -> Signal | None:
        """The next signal; its handler, if it has one, has been called."""
        if self._within:
            raise InvalidArgument(f"signals come at the boundaries of steps, not within {self._within}")
        if self._inbox:
            return self._inbox.popleft()
        # Those that wait are not handed to their handlers first: whoever waits for what a handler does would miss it.
        self.publish()
        text = self._interruptible(self._api.next_signal, timeout_ms)
        if text is None:
            return None
        signal = _read(text)
        self._hand_over(signal)
        self.publish()
        return signal

    def _drain(self) -> None:
        while (text := self._interruptible(self._api.next_signal, 0)) is not None:
            signal = _read(text)
            if not self._hand_over(signal):
                self._inbox.append(signal)

    def _hand_over(self, signal: Signal) -> bool:
        self._within = f"the handler of signal {signal.name!r}"
        try:
            return self._take(signal)
        finally:
            self._within = ""

    def _interruptible(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return do(function, *args)
        except Cancelled as cancelled:
            if self._undoing:
                # It is told once; what is being undone must be undone.
                return do(function, *args)
            raise WorkflowCancelled(cancelled.message) from None

    # -- steps -------------------------------------------------------------------------------------------

    def step(
        self,
        name: str,
        function: Callable[[], Any],
        policy: Policy,
        undo: Callable[[Any], Callable[[], Any]] | None,
        encode: Callable[[Any], str],
    ) -> Any:
        """Run a step once, or give its recorded result; see `host.step`."""
        if not isinstance(name, str) or not 1 <= len(name.encode("utf-8", "replace")) <= _NAME_BYTES_MAX:
            raise InvalidArgument(f"a step's name is a text of 1 to {_NAME_BYTES_MAX} bytes, not {name!r:.100}")
        if self._within:
            raise InvalidArgument(f"step {name!r} begins within {self._within}: begin it after that has ended")
        if name in self._names:
            raise InvalidArgument(
                f"this run has a step {name!r} already: in a loop, put a number into the name, such as f'{name}-{{i}}'"
            )
        self._names.add(name)
        self.boundary()
        value = json.loads(self._attempts(name, function, policy, encode))
        if undo is not None:
            self._done.append((name, undo(value), policy))
        self.boundary()
        # What the record will give, also the first time: a tuple is a list from the beginning.
        return value

    def _attempts(
        self, name: str, function: Callable[[], Any], policy: Policy, encode: Callable[[Any], str]
    ) -> str:
        options = policy.text()
        while True:
            recorded: str | None = self._interruptible(self._api.step_begin, name, options)
            if recorded is not None:
                return recorded
            self._within = f"step {name!r}"
            try:
                text = encode(function())
                do(self._api.step_succeeded, name, text)
                return text
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  whatever the author's step raises decides whether it is tried again
                failed = error
            finally:
                self._within = ""
            if do(self._api.step_failed, name, _text(failed)) is None or isinstance(failed, Refuse):
                self._failed = (name, failed)
                raise failed

    # -- the end -----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The author's code has returned: take what has come since the last boundary."""
        self._undoing = True
        self._drain()
        for signal in self._inbox:
            self._report("warn", f"signal {signal.name!r} reached nobody: no handler takes it, and the run has ended")

    def give_up(self, error: BaseException, encode: Callable[[Any], str]) -> Refuse:
        """The author's code has raised: undo the steps that are done, in reverse order; how the run ends."""
        self._undoing = True
        broken: list[str] = []
        while self._done:
            name, undo, policy = self._done.pop()
            try:
                self._attempts(name + UNDOING, undo, policy, encode)
            except MemoryError:
                raise
            except Exception as failed:  # noqa: BLE001  the other steps are to be undone all the same
                broken.append(name)
                self._report("error", f"step {name!r} could not be undone: {_text(failed)}")
            self.publish()
        refusal = self._refusal(error)
        if broken:
            refusal.details["compensation_failed"] = broken
        return refusal

    def _refusal(self, error: BaseException) -> Refuse:
        if isinstance(error, Refuse):
            return error
        if isinstance(error, WorkflowCancelled):
            return Refuse("cancelled", str(error))
        kind = type(error).__name__
        if self._failed is not None and self._failed[1] is error:
            name = self._failed[0]
            return Refuse("step-failed", f"step {name!r} failed: {_text(error)}", step=name, type=kind)
        return Refuse("run-failed", f"the run failed: {_text(error)}", type=kind)


_current: Run | None = None


def current() -> Run | None:
    """The run whose code is being executed; None in any other handler."""
    run = _current
    # Under test several actors share the interpreter: what a run asks of another is not part of the run.
    return run if run is not None and run.imports is _imports.current else None


def enter(run: Run | None) -> Run | None:
    """Make it the current one; the one before, to be put back afterwards."""
    global _current
    before, _current = _current, run
    return before


def _read(text: str) -> Signal:
    fields = json.loads(text)
    return Signal(fields["name"], fields["payload"], fields["sender"], fields["id"], fields["context"])


def _text(error: BaseException) -> str:
    if isinstance(error, HostError):
        return error.message[:_MESSAGE_CHARS_MAX]
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  an exception whose text raises must still be reported
        text = type(error).__name__
    # A lone surrogate, as broken input gives, cannot cross the boundary.
    return text[:_MESSAGE_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
