"""What holds of a supervisor whatever happens, in whatever order it hears of it.

S1  Never more restarts in a window than the intensity.
S2  An ended supervisor has no living child.
S3  No child lives twice, and none is started under an incarnation that was used before.
S4  Children of a specification start in its order and stop in reverse; in `one_for_all` and `rest_for_one` all
    affected have ended before the first starts again.
S5  Every command is answered once, if it came before the end.
S6  `Dropped` is said exactly when a child that lived or was to come back does not any more.
S7  After the last action there is none.
S8  Timers are cancelled or run out: an ended supervisor leaves none.
S9  Who comes back does come back or is dropped: once nothing is under way and no timer runs, nobody is expected.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.supervision import core
from plexspaces_runtime.supervision.core import ChildState, Core, State
from plexspaces_runtime.supervision.spec import (
    BRUTAL_KILL,
    INFINITY,
    AutoShutdown,
    Backoff,
    ChildSpec,
    RestartPolicy,
    Strategy,
    SupervisorSpec,
)
from tests.unit.supervision.stage import Stage

IDS = ["a", "b", "c", "d", "e"]
EXITS = [exits.NORMAL, exits.SHUTDOWN, exits.KILLED, exits.crashed("ValueError", "x"), exits.limit("cpu", "x")]
TOGETHER = (Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE)

some_id = st.sampled_from(IDS)
some_exit = st.sampled_from(EXITS)


@st.composite
def child_specs(draw: st.DrawFn, auto_shutdown: AutoShutdown, child_id: str) -> ChildSpec:
    restart = draw(st.sampled_from(RestartPolicy))
    significant = auto_shutdown is not AutoShutdown.NEVER and restart is not RestartPolicy.PERMANENT
    return ChildSpec(
        child_id,
        draw(st.sampled_from(["v1", "v2"])),
        restart,
        draw(st.sampled_from([BRUTAL_KILL, 1.0, 5.0, INFINITY])),
        significant and draw(st.booleans()),
    )


@st.composite
def supervisor_specs(draw: st.DrawFn, simple: bool | None = None) -> SupervisorSpec:
    simple = draw(st.sampled_from([False, False, False, True])) if simple is None else simple
    plain = st.sampled_from([strategy for strategy in Strategy if strategy is not Strategy.SIMPLE_ONE_FOR_ONE])
    auto_shutdown = draw(st.sampled_from(AutoShutdown))
    ids = ["template"] if simple else draw(st.lists(some_id, unique=True, max_size=4))
    return SupervisorSpec(
        Strategy.SIMPLE_ONE_FOR_ONE if simple else draw(plain),
        draw(st.integers(0, 6)),
        draw(st.sampled_from([1.0, 10.0])),
        auto_shutdown,
        draw(st.sampled_from([None, None, Backoff(0.5, 2.0)])),
        tuple(draw(child_specs(auto_shutdown, child_id)) for child_id in ids),
    )


class Supervised(RuleBasedStateMachine):
    """A core, and a world that starts and ends children when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        # By child: its incarnation, once its start is asked for and until it has ended.
        self.asked: dict[str, int] = {}
        self.living: dict[str, int] = {}
        self.told_to_end: set[str] = set()
        # Ends that the core has not been told of.
        self.unheard: list[core.ChildEnded] = []
        self.used: set[int] = set()
        self.timers: set[int] = set()
        self.refs = 0
        self.open: set[int] = set()
        self.restarts: list[float] = []
        # The most that any of its specifications allows.
        self.restarts_max = 0
        # Those that the core owes a `Dropped`, or a life.
        self.expected: set[str] = set()
        self.over = False
        self.replaced = False

    @initialize(spec=supervisor_specs())
    def begin(self, spec: SupervisorSpec) -> None:
        self.core = Core(spec)
        self.restarts_max = spec.restarts_max
        self.send(core.Start())

    # -- what the world does ------------------------------------------------------------------------------

    def send(self, message: core.Message) -> None:
        was_over = self.over
        actions = self.core.handle(message, self.now_s)
        if was_over:
            assert actions == [], "S7"
        for action in actions:
            assert not self.over, "S7"
            self.do(action)

    def do(self, action: core.Action) -> None:
        match action:
            case core.StartChild(child_id, incarnation, spec):
                assert spec.id == child_id
                assert child_id not in self.living, "S3"
                assert child_id not in self.asked, "S3"
                assert incarnation not in self.used, "S3"
                self.used.add(incarnation)
                self.asked[child_id] = incarnation
                self.expected.add(child_id)
            case core.StopChild(child_id, incarnation) | core.KillChild(child_id, incarnation):
                self.told(child_id, incarnation)
            case core.SetTimer(timer, delay_s):
                assert delay_s > 0
                self.timers.add(timer)
            case core.CancelTimer(timer):
                self.timers.discard(timer)
            case core.Answer(ref):
                assert ref in self.open, "S5"
                self.open.remove(ref)
            case core.Restarting(_, _, restarts):
                self.restarts.append(self.now_s)
                assert restarts <= self.restarts_max, "S1"
                # A longer window that replaces a shorter one finds nothing that only the longer would have kept.
                if not self.replaced:
                    window_s = self.core.spec.window_s
                    assert sum(at >= self.now_s - window_s for at in self.restarts) == restarts, "S1"
            case core.Dropped(child_id):
                assert child_id in self.expected, "S6"
                assert child_id not in self.living or self.core.state is State.ENDED, "S6"
                self.expected.remove(child_id)
            case core.Ended() | core.StartFailed():
                self.over = True
                assert not self.living, "S2"
                assert not self.asked, "S2"
                assert not self.timers, "S8"
                assert not self.open, "S5"
                assert not self.expected, "S6"
            case core.Started() | core.GaveUp():
                pass

    def told(self, child_id: str, incarnation: int) -> None:
        if any((end.child_id, end.incarnation) == (child_id, incarnation) for end in self.unheard):
            # It has died meanwhile, and the message is under way.
            return
        assert self.living.get(child_id) == incarnation, "only the living are told to end"
        if self.core.spec.strategy in TOGETHER and self.core.state is State.RUNNING:
            assert not self.asked, "S4"
        self.told_to_end.add(child_id)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]), exit_=some_exit)
    def a_start_comes_to_its_end(self, data: st.DataObject, fails: bool, exit_: Exit) -> None:
        child_id = data.draw(st.sampled_from(sorted(self.asked)))
        incarnation = self.asked.pop(child_id)
        if fails:
            self.send(core.ChildFailed(child_id, incarnation, exit_))
        else:
            self.living[child_id] = incarnation
            self.send(core.ChildStarted(child_id, incarnation))

    @precondition(lambda self: self.living)
    @rule(data=st.data(), exit_=some_exit)
    def a_child_ends(self, data: st.DataObject, exit_: Exit) -> None:
        # As often as not one that was told to: else the supervisor rarely gets on.
        child_id = data.draw(st.sampled_from(sorted(self.told_to_end) or sorted(self.living)))
        self.die(child_id, exit_)
        self.hear()

    @precondition(lambda self: self.living)
    @rule(data=st.data(), exit_=some_exit)
    def a_child_ends_unheard(self, data: st.DataObject, exit_: Exit) -> None:
        self.die(data.draw(st.sampled_from(sorted(self.living))), exit_)

    def die(self, child_id: str, exit_: Exit) -> None:
        self.unheard.append(core.ChildEnded(child_id, self.living.pop(child_id), exit_))
        self.told_to_end.discard(child_id)

    @precondition(lambda self: self.unheard)
    @rule()
    def hear(self) -> None:
        self.send(self.unheard.pop(0))

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def a_timer_runs_out(self, data: st.DataObject) -> None:
        timer = data.draw(st.sampled_from(sorted(self.timers)))
        self.timers.remove(timer)
        self.send(core.Elapsed(timer))

    @rule(seconds=st.sampled_from([0.25, 1.0, 10.0, 10.5]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(incarnation=st.integers(0, 20), child_id=some_id, exit_=some_exit)
    def late_news(self, incarnation: int, child_id: str, exit_: Exit) -> None:
        current = {self.asked.get(child_id), self.living.get(child_id)}
        current |= {end.incarnation for end in self.unheard if end.child_id == child_id}
        if incarnation not in current:
            before = self.core.children()
            for news in (core.ChildEnded, core.ChildFailed):
                self.send(news(child_id, incarnation, exit_))
            self.send(core.ChildStarted(child_id, incarnation))
            assert self.core.children() == before

    # -- what others ask ----------------------------------------------------------------------------------

    def ref(self) -> int:
        self.refs += 1
        if not self.over:
            self.open.add(self.refs)
        return self.refs

    @rule(data=st.data(), child_id=some_id)
    def add(self, data: st.DataObject, child_id: str) -> None:
        spec = data.draw(child_specs(self.core.spec.auto_shutdown, child_id))
        self.send(core.AddChild(self.ref(), spec))

    @rule(child_id=some_id, brutal=st.booleans())
    def terminate(self, child_id: str, brutal: bool) -> None:
        self.send(core.TerminateChild(self.ref(), child_id, brutal))

    @rule(child_id=some_id)
    def restart(self, child_id: str) -> None:
        self.send(core.RestartChild(self.ref(), child_id))

    @rule(child_id=some_id)
    def delete(self, child_id: str) -> None:
        self.send(core.DeleteChild(self.ref(), child_id))

    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        self.replaced = True
        simple = self.core.spec.strategy is Strategy.SIMPLE_ONE_FOR_ONE
        spec = data.draw(supervisor_specs(simple))
        self.restarts_max = max(self.restarts_max, spec.restarts_max)
        self.send(core.Replace(self.ref(), spec))

    @precondition(lambda self: len(self.used) > 8)
    @rule(exit_=some_exit)
    def shut_down(self, exit_: Exit) -> None:
        self.send(core.Shutdown(exit_))

    # -- what holds after each step -----------------------------------------------------------------------

    @invariant()
    def the_world_and_the_core_agree(self) -> None:
        unheard = {end.child_id for end in self.unheard}
        views = {view.spec.id: view for view in self.core.children()}
        for child_id, incarnation in self.living.items():
            assert views[child_id].incarnation == incarnation
            assert views[child_id].state in (ChildState.RUNNING, ChildState.STOPPING)
        for child_id, view in views.items():
            if view.running:
                assert child_id in self.living or child_id in unheard
            if view.state is ChildState.STARTING:
                assert self.asked.get(child_id) == view.incarnation

    @invariant()
    def nothing_is_expected_in_vain(self) -> None:
        """S6, S9"""
        quiet = not self.asked and not self.told_to_end and not self.unheard and not self.timers
        for child_id in self.expected:
            here = child_id in self.living or child_id in {end.child_id for end in self.unheard}
            if quiet:
                assert here, "S9"
                assert not self.core.comes_back(child_id)
        if self.core.state is State.RUNNING and quiet:
            for view in self.core.children():
                assert view.state in (ChildState.RUNNING, ChildState.STOPPED), "S9"
                assert view.running is (view.spec.id in self.living)
                assert not self.open, "S5"

    def teardown(self) -> None:
        """Let everything under way happen: it must come to an end."""
        if not hasattr(self, "core"):
            return
        self.send(core.Shutdown(exits.SHUTDOWN))
        for _ in range(10_000):
            if self.unheard:
                self.hear()
            elif self.asked:
                child_id, incarnation = self.asked.popitem()
                self.living[child_id] = incarnation
                self.send(core.ChildStarted(child_id, incarnation))
            elif self.told_to_end:
                self.die(min(self.told_to_end), exits.SHUTDOWN)
            else:
                break
        assert self.over, "S2"
        assert self.core.state is State.ENDED
        assert not any(self.core.comes_back(child_id) for child_id in IDS)


Supervised.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSupervised = Supervised.TestCase


# -- S4, on whole restarts ---------------------------------------------------------------------------------


@given(
    strategy=st.sampled_from([strategy for strategy in Strategy if strategy is not Strategy.SIMPLE_ONE_FOR_ONE]),
    types=st.lists(st.sampled_from(RestartPolicy), min_size=1, max_size=8),
    down=st.sets(st.integers(0, 7)),
    data=st.data(),
)
def test_order(strategy: Strategy, types: list[RestartPolicy], down: set[int], data: st.DataObject) -> None:
    children = [ChildSpec(f"c{number}", "v1", restart) for number, restart in enumerate(types)]
    stage = Stage(SupervisorSpec(strategy, children=tuple(children)))
    for number in down:
        stage.ask(core.TerminateChild(number, f"c{number}"))
    stage.read()
    crashing = [
        number for number in range(len(types)) if types[number] is RestartPolicy.PERMANENT and number not in down
    ]
    if crashing:
        crashed = data.draw(st.sampled_from(crashing))
        affected = {
            Strategy.ONE_FOR_ONE: [crashed],
            Strategy.ONE_FOR_ALL: range(len(types)),
            Strategy.REST_FOR_ONE: range(crashed, len(types)),
        }[strategy]
        stops = [f"-c{number}" for number in reversed(affected) if number not in down and number != crashed]
        starts = [f"+c{number}" for number in affected if types[number] is not RestartPolicy.TEMPORARY]
        assert stage.crash(f"c{crashed}") == stops + starts
        down = {number for number in down if number not in affected}
        down |= {number for number in affected if types[number] is RestartPolicy.TEMPORARY}
    stage.send(core.Shutdown(exits.SHUTDOWN))
    stops = [f"-c{number}" for number in reversed(range(len(types))) if number not in down]
    assert stage.read() == [*stops, "ended: shutdown"]
