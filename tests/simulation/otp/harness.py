"""A tree of cores with workers that are nothing but names: what a node does around a core, in a few lines."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.errors import AlreadyExists, Conflict, HandlerCrashed, NotFound, PlexSpacesError, Unavailable
from plexspaces_runtime.supervision import core
from plexspaces_runtime.supervision.core import Core
from plexspaces_runtime.supervision.spec import (
    BRUTAL_KILL,
    INFINITY,
    AutoShutdown,
    ChildSpec,
    RestartPolicy,
    Strategy,
    SupervisorSpec,
)

from .scenarios import Add, Advance, Ask, Batch, Crash, Refuse, Scenario, Sup, Worker

EXITS = {
    "normal": exits.NORMAL,
    "shutdown": exits.SHUTDOWN,
    "killed": exits.KILLED,
    "crashed": exits.crashed("ValueError", "x"),
}
REFUSED = exits.crashed("Refused", "not now")


def child_spec(child: Worker | Sup) -> ChildSpec:
    if isinstance(child, Sup):
        return ChildSpec(child.id, child, RestartPolicy(child.restart), INFINITY, child.significant)
    match child.shutdown:
        case "brutal_kill":
            shutdown_s = BRUTAL_KILL
        case "infinity":
            shutdown_s = INFINITY
        case milliseconds:
            shutdown_s = int(milliseconds) / 1000
    return ChildSpec(child.id, child, RestartPolicy(child.restart), shutdown_s, child.significant)


def supervisor_spec(sup: Sup) -> SupervisorSpec:
    return SupervisorSpec(
        Strategy(sup.strategy),
        sup.intensity,
        sup.period_s,
        AutoShutdown(sup.auto_shutdown),
        children=tuple(child_spec(child) for child in sup.children),
    )


@dataclass(eq=False)
class Node:
    """A supervisor that runs."""

    sup: Sup
    core: Core
    parent: Node | None
    incarnation: int
    # The living workers.
    workers: dict[str, tuple[int, Worker]] = field(default_factory=dict)


class Tree:
    """Leads cores through a scenario and writes down what happened, in the words of `otp_supervisor.erl`.

    Args:
        at_once: hand a core all messages of a batch before it hears of anything that follows from the first.
            Whether or not must make no difference: OTP's mailbox holds them either way.
    """

    def __init__(self, scenario: Scenario, *, at_once: bool) -> None:
        self.scenario = scenario
        self.at_once = at_once
        self.now_s = 0.0
        self.lines: list[str] = []
        self.nodes: dict[str, Node] = {}
        self.refusals: dict[str, int] = {}
        self.queue: deque[tuple[Node, core.Message]] = deque()
        self.timers: dict[tuple[Node, int], None] = {}

    def run(self) -> list[str]:
        steps = list(self.scenario.steps)
        while steps and isinstance(steps[0], Refuse):
            refuse = steps.pop(0)
            assert isinstance(refuse, Refuse)
            self.refusals[refuse.id] = refuse.times
        root = self.start_sup(self.scenario.root, None, 0)
        self.drain()
        number = 0
        for step in steps:
            if root.core.state is not core.State.RUNNING:
                break
            match step:
                case Advance(seconds):
                    self.now_s += seconds
                case Refuse(child_id, times):
                    self.refusals[child_id] = times
                case Batch(sup_id, operations):
                    self.batch(sup_id, operations, number)
                    number += len(operations)
        if root.core.state is core.State.RUNNING:
            self.queue.append((root, core.Shutdown(exits.SHUTDOWN)))
            self.drain()
        return self.lines

    def batch(self, sup_id: str, operations: tuple[Crash | Add | Ask, ...], number: int) -> None:
        node = self.nodes.get(sup_id)
        if node is None or node.core.state is not core.State.RUNNING:
            return
        messages: list[core.Message] = []
        for ref, operation in enumerate(operations, number):
            match operation:
                case Crash(child_id, reason):
                    if child_id in node.workers:
                        messages.append(self.die(node, child_id, EXITS[reason], reason))
                case Add(child):
                    messages.append(core.AddChild(ref, child_spec(child)))
                case Ask("terminate_child", child_id):
                    messages.append(core.TerminateChild(ref, child_id))
                case Ask("terminate_dynamic", child_id):
                    # OTP names it by its process, which must be there to have a name.
                    if child_id in node.workers:
                        messages.append(core.TerminateChild(ref, child_id))
                case Ask("restart_child", child_id):
                    messages.append(core.RestartChild(ref, child_id))
                case Ask("delete_child", child_id):
                    messages.append(core.DeleteChild(ref, child_id))
        for message in messages:
            self.deliver(node, message)
            if not self.at_once:
                self.drain(timers=False)
        self.drain()

    def die(self, node: Node, child_id: str, exit_: Exit, word: str) -> core.ChildEnded:
        incarnation, _ = node.workers.pop(child_id)
        self.lines.append(f"exit {child_id} {word}")
        return core.ChildEnded(child_id, incarnation, exit_)

    def drain(self, *, timers: bool = True) -> None:
        while self.queue or (timers and self.timers):
            if self.queue:
                self.deliver(*self.queue.popleft())
            else:
                node, timer = next(iter(self.timers))
                del self.timers[node, timer]
                self.deliver(node, core.Elapsed(timer))

    def deliver(self, node: Node, message: core.Message) -> None:
        for action in node.core.handle(message, self.now_s):
            self.do(node, action)

    def start_sup(self, sup: Sup, parent: Node | None, incarnation: int) -> Node:
        self.lines.append(f"start {sup.id}")
        node = self.nodes[sup.id] = Node(sup, Core(supervisor_spec(sup)), parent, incarnation)
        self.queue.append((node, core.Start()))
        return node

    def do(self, node: Node, action: core.Action) -> None:
        match action:
            case core.StartChild(child_id, incarnation, spec):
                self.start(node, child_id, incarnation, spec)
            case core.StopChild(child_id) | core.KillChild(child_id):
                self.stop(node, child_id, brutal=isinstance(action, core.KillChild))
            case core.SetTimer(timer):
                self.timers[node, timer] = None
            case core.CancelTimer(timer):
                self.timers.pop((node, timer), None)
            case core.Answer(ref, error):
                if not isinstance(error, Unavailable):
                    self.lines.append(f"answer {ref} {answer(error)}")
            case core.Started():
                self.tell_parent(node, core.ChildStarted(node.sup.id, node.incarnation))
            case core.StartFailed(_, exit_):
                self.lines.append(f"failed {node.sup.id}")
                self.tell_parent(node, core.ChildFailed(node.sup.id, node.incarnation, exit_))
            case core.Ended(exit_):
                assert not node.workers, "an ended supervisor has a living child"
                self.lines.append(f"exit {node.sup.id} {exit_.text}")
                self.tell_parent(node, core.ChildEnded(node.sup.id, node.incarnation, exit_))
            case core.Restarting() | core.GaveUp() | core.Dropped():
                pass

    def tell_parent(self, node: Node, message: core.Message) -> None:
        if node.parent is not None:
            self.queue.append((node.parent, message))

    def start(self, node: Node, child_id: str, incarnation: int, spec: ChildSpec) -> None:
        content = spec.content
        if isinstance(content, Sup):
            self.start_sup(content, node, incarnation)
        elif self.refusals.get(child_id, 0) > 0:
            self.refusals[child_id] -= 1
            self.lines.append(f"refused {child_id}")
            self.queue.append((node, core.ChildFailed(child_id, incarnation, REFUSED)))
        else:
            assert child_id not in node.workers, "a child lives twice"
            self.lines.append(f"start {child_id}")
            node.workers[child_id] = (incarnation, content)
            self.queue.append((node, core.ChildStarted(child_id, incarnation)))

    def stop(self, node: Node, child_id: str, *, brutal: bool) -> None:
        if (living := node.workers.get(child_id)) is None:
            if (below := self.nodes.get(child_id)) is not None:
                self.queue.append((below, core.Shutdown(exits.SHUTDOWN)))
            # Else it has died meanwhile, and the message that says so is under way.
        elif brutal:
            self.queue.append((node, self.die(node, child_id, exits.KILLED, "killed")))
        elif not living[1].stubborn:
            self.queue.append((node, self.die(node, child_id, exits.SHUTDOWN, "shutdown")))


def answer(error: PlexSpacesError | None) -> str:
    """OTP's word for it."""
    match error:
        case None:
            return "ok"
        case AlreadyExists():
            return "already_started" if error.details["state"] == "running" else "already_present"
        case Conflict():
            return str(error.details.get("state", "simple_one_for_one"))
        case NotFound():
            return "not_found"
        case HandlerCrashed():
            return "refused"
    raise AssertionError(error)
