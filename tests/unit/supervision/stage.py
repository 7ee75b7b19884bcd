"""A core and its children for a test that speaks: `+b` starts, `-b` is told to end, `!b` is killed."""

from __future__ import annotations

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.errors import PlexSpacesError
from plexspaces_runtime.supervision import core
from plexspaces_runtime.supervision.core import Core
from plexspaces_runtime.supervision.spec import SupervisorSpec

CRASH = exits.crashed("ValueError", "no such row")


class Stage:
    """Children that start at once and end when told to, unless they are in `failing` or `stubborn`.

    Attributes:
        trace: what happened since it was last read.
        paused: starts and ends are carried out when `go` is called.
    """

    def __init__(self, spec: SupervisorSpec, *, start: bool = True) -> None:
        self.core = Core(spec)
        self.now_s = 0.0
        self.failing: dict[str, int] = {}
        self.stubborn: set[str] = set()
        self.paused = False
        self.living: dict[str, int] = {}
        self.timers: dict[int, float] = {}
        self.answers: dict[object, PlexSpacesError | None] = {}
        self.reports: list[core.Restarting | core.GaveUp] = []
        self.dropped: list[str] = []
        self._lines: list[str] = []
        self._due: list[core.Message] = []
        if start:
            self.send(core.Start())
            assert self.read()[-1] == "started"

    def read(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines

    def send(self, *messages: core.Message) -> None:
        for message in messages:
            for action in self.core.handle(message, self.now_s):
                self._do(action)
        if not self.paused:
            self.go()

    def go(self) -> None:
        """Let what is under way happen."""
        while self._due:
            self.step()

    def step(self) -> None:
        """Let the next thing that is under way happen."""
        for action in self.core.handle(self._due.pop(0), self.now_s):
            self._do(action)

    def end(self, child_id: str, exit_: Exit = CRASH) -> core.ChildEnded:
        """The child has ended; the message that says so."""
        return core.ChildEnded(child_id, self.living.pop(child_id), exit_)

    def crash(self, child_id: str, exit_: Exit = CRASH) -> list[str]:
        """A child ends by itself; what happens then."""
        self.send(self.end(child_id, exit_))
        return self.read()

    def ask(self, message: core.Command) -> PlexSpacesError | None:
        """The answer to a command."""
        self.send(message)
        return self.answers[message.ref]

    def wait(self, seconds: float) -> None:
        """Time passes, and timers run out."""
        until = self.now_s + seconds
        while due := [timer for timer, at in self.timers.items() if at <= until]:
            timer = min(due, key=self.timers.__getitem__)
            self.now_s = self.timers.pop(timer)
            self.send(core.Elapsed(timer))
        self.now_s = until

    def _do(self, action: core.Action) -> None:
        match action:
            case core.StartChild(child_id, incarnation):
                self._start(child_id, incarnation)
            case core.StopChild(child_id, incarnation):
                self._lines.append(f"-{child_id}")
                if child_id not in self.stubborn:
                    self._stop(child_id, incarnation, exits.SHUTDOWN)
            case core.KillChild(child_id, incarnation):
                self._lines.append(f"!{child_id}")
                self._stop(child_id, incarnation, exits.KILLED)
            case core.SetTimer(timer, delay_s):
                self.timers[timer] = self.now_s + delay_s
            case core.CancelTimer(timer):
                self.timers.pop(timer, None)
            case core.Started():
                self._lines.append("started")
            case core.StartFailed(child_id):
                self._lines.append(f"start failed: {child_id}")
            case core.Ended(exit_):
                assert not self.living
                self._lines.append(f"ended: {exit_.text}")
            case core.Answer(ref, error):
                assert ref not in self.answers
                self.answers[ref] = error
            case core.Restarting() | core.GaveUp():
                self.reports.append(action)
            case core.Dropped(child_id):
                self.dropped.append(child_id)

    def _start(self, child_id: str, incarnation: int) -> None:
        assert child_id not in self.living
        if self.failing.get(child_id, 0) > 0:
            self.failing[child_id] -= 1
            self._lines.append(f"?{child_id}")
            self._due.append(core.ChildFailed(child_id, incarnation, CRASH))
        else:
            self._lines.append(f"+{child_id}")
            self.living[child_id] = incarnation
            self._due.append(core.ChildStarted(child_id, incarnation))

    def _stop(self, child_id: str, incarnation: int, exit_: Exit) -> None:
        if self.living.get(child_id) == incarnation:
            del self.living[child_id]
            self._due.append(core.ChildEnded(child_id, incarnation, exit_))
