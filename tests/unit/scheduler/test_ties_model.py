"""Links, monitors and groups against a model of OTP's rules, with actors that come, crash, are killed and restarted."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plexspaces_runtime.actors.actor import Actor
from plexspaces_runtime.errors import ActorExited
from tests.unit.scripted import SCOPE, Bench, call

NAMES = ["a", "b", "c", "d"]
names = st.sampled_from(NAMES)


class Ties(RuleBasedStateMachine):
    """The model knows names and pairs of names; the runtime knows actors."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bench = self.run(self._make())
        self.alive: set[str] = set()
        self.trapping: set[str] = set()
        self.links: set[frozenset[str]] = set()
        self.monitors: dict[str, tuple[str, str]] = {}
        self.members: list[str] = []
        self.expected: dict[str, list[tuple[str, str]]] = {name: [] for name in NAMES}
        self.past: list[weakref.ref[Actor]] = []
        for name in NAMES:
            self.come(name)

    async def _make(self) -> Bench:
        return Bench()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def do(self, name: str, interface: str, function: str, *arguments: Any) -> Any:
        return self.run(self.bench.do(name, call(interface, function, *arguments)))

    def die(self, name: str, reason: str) -> None:
        """What OTP says of the end of `name`."""
        ended = [name]
        self.alive.discard(name)
        for dead in ended:
            for pair in [pair for pair in self.links if dead in pair]:
                self.links.discard(pair)
                (other,) = pair - {dead}
                if other in self.trapping:
                    self.expected[other].append(("EXIT", dead))
                elif reason != "normal" and other in self.alive:
                    self.alive.discard(other)
                    ended.append(other)
            for reference, (watcher, target) in list(self.monitors.items()):
                if target == dead:
                    del self.monitors[reference]
                    self.expected[watcher].append(("DOWN", reference))
        for dead in ended:
            self.trapping.discard(dead)
            self.expected[dead] = []
            for reference, (watcher, _) in list(self.monitors.items()):
                if watcher == dead:
                    del self.monitors[reference]
            if dead in self.members:
                self.members.remove(dead)

    @rule(name=names)
    def come(self, name: str) -> None:
        if name not in self.alive:
            actor = self.run(self.bench.puppet(name))
            self.past.append(weakref.ref(actor))
            self.alive.add(name)

    @rule(name=names, other=names)
    def link(self, name: str, other: str) -> None:
        if name not in self.alive or name == other:
            return
        if other in self.alive:
            self.do(name, "lifecycle", "link", other)
            self.links.add(frozenset({name, other}))
        elif name in self.trapping:
            self.do(name, "lifecycle", "link", other)
            self.expected[name].append(("EXIT", other))
        else:
            with pytest.raises(ActorExited, match="noproc"):
                self.do(name, "lifecycle", "link", other)
            self.die(name, "noproc")

    @rule(name=names, other=names)
    def unlink(self, name: str, other: str) -> None:
        if name in self.alive:
            self.do(name, "lifecycle", "unlink", other)
            self.links.discard(frozenset({name, other}))

    @rule(name=names, other=names)
    def monitor(self, name: str, other: str) -> None:
        if name in self.alive:
            reference = self.do(name, "lifecycle", "monitor", other).value
            if other not in self.alive:
                self.expected[name].append(("DOWN", reference))
            elif name != other:
                self.monitors[reference] = (name, other)

    @rule(number=st.integers(0, 20))
    def demonitor(self, number: int) -> None:
        if self.monitors:
            reference = sorted(self.monitors)[number % len(self.monitors)]
            watcher, _ = self.monitors.pop(reference)
            self.do(watcher, "lifecycle", "demonitor", reference)

    @rule(name=names, on=st.booleans())
    def trap(self, name: str, on: bool) -> None:
        if name in self.alive:
            assert self.do(name, "lifecycle", "trap-exit", on) is (name in self.trapping)
            (self.trapping.add if on else self.trapping.discard)(name)

    @rule(name=names)
    def join(self, name: str) -> None:
        if name in self.alive:
            self.do(name, "process-groups", "join", "g")
            if name not in self.members:
                self.members.append(name)

    @rule(name=names)
    def leave(self, name: str) -> None:
        if name in self.alive:
            self.do(name, "process-groups", "leave", "g")
            if name in self.members:
                self.members.remove(name)

    @rule(name=names, how=st.sampled_from(["kill", "crash", "normal"]))
    def end(self, name: str, how: str) -> None:
        if name not in self.alive:
            return
        if how == "kill":
            self.run(self.bench.kill(name))
        elif how == "crash":
            self.run(self.bench.crash(name))
        else:
            self.do(name, "lifecycle", "stop", name, "normal")
            self.run(self.bench.settle())
        self.die(name, how)

    @invariant()
    def they_agree(self) -> None:
        bench = self.bench
        self.run(bench.settle())
        assert set(bench.actors) == self.alive
        assert [member.address.text for member in bench.host.groups.members(SCOPE, "g")] == self.members
        for name in self.alive:
            actor = bench.actors[name]
            assert {other.address.text for other in actor.links} == {
                other for pair in self.links if name in pair for other in pair - {name}
            }
            assert set(actor.watching) == {ref for ref, (watcher, _) in self.monitors.items() if watcher == name}
            assert set(actor.watchers) == {ref for ref, (_, target) in self.monitors.items() if target == name}
            told = [(op, payload["actor_id" if op == "EXIT" else "monitor_ref"]) for op, payload in bench.heard(name)]
            assert sorted(told) == sorted(self.expected[name]), "each once, and nothing else"
            self.expected[name] = []

    def teardown(self) -> None:
        bench = self.bench
        living = {id(actor) for actor in bench.actors.values()}
        bench.exits.clear()
        gc.collect()
        left = [actor for ref in self.past if (actor := ref()) is not None and id(actor) not in living]
        self.loop.close()
        assert left == [], "a dead actor is kept by somebody"


Ties.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestTies = Ties.TestCase
