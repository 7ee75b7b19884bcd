"""Random lives of supervision trees, in a form that both OTP and the core can be led through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True)
class Worker:
    """A child that does nothing but end when told to, unless it is `stubborn`: then it must be killed."""

    id: str
    restart: str
    shutdown: str | int
    significant: bool = False
    stubborn: bool = False

    @property
    def term(self) -> str:
        fields = (self.id, self.restart, self.shutdown, _bool(self.significant), _bool(self.stubborn))
        return f"{{worker,{','.join(map(str, fields))}}}"


@dataclass(frozen=True)
class Sup:
    """A supervisor; `restart` and `significant` are its own as a child, if it is one."""

    id: str
    strategy: str
    intensity: int
    period_s: int
    auto_shutdown: str = "never"
    children: tuple[Worker | Sup, ...] = ()
    restart: str = "permanent"
    significant: bool = False

    @property
    def flags(self) -> str:
        children = ",".join(child.term for child in self.children)
        parts = (self.id, self.strategy, self.intensity, self.period_s, self.auto_shutdown, f"[{children}]")
        return f"{{sup,{','.join(map(str, parts))}}}"

    @property
    def term(self) -> str:
        return f"{{sup,{self.id},{self.restart},{_bool(self.significant)},{self.flags}}}"

    def walk(self) -> Iterator[Sup]:
        yield self
        for child in self.children:
            if isinstance(child, Sup):
                yield from child.walk()


@dataclass(frozen=True)
class Crash:
    """A child ends by itself, for this reason."""

    id: str
    reason: str

    @property
    def term(self) -> str:
        return f"{{crash,{self.id},{'{crashed,x}' if self.reason == 'crashed' else self.reason}}}"


@dataclass(frozen=True)
class Add:
    child: Worker
    dynamic: bool = False

    @property
    def term(self) -> str:
        return f"{{start_dynamic,{self.child.id}}}" if self.dynamic else f"{{start_child,{self.child.term}}}"


@dataclass(frozen=True)
class Ask:
    """terminate_child, terminate_dynamic, restart_child or delete_child."""

    what: str
    id: str

    @property
    def term(self) -> str:
        return f"{{{self.what},{self.id}}}"


@dataclass(frozen=True)
class Batch:
    """Operations that are all in a supervisor's mailbox before it reads the first."""

    sup: str
    operations: tuple[Crash | Add | Ask, ...]

    @property
    def term(self) -> str:
        return f"{{batch,{self.sup},[{','.join(operation.term for operation in self.operations)}]}}"


@dataclass(frozen=True)
class Advance:
    seconds: int

    @property
    def term(self) -> str:
        return f"{{advance,{self.seconds}}}"


@dataclass(frozen=True)
class Refuse:
    """The next `times` starts of a worker fail."""

    id: str
    times: int

    @property
    def term(self) -> str:
        return f"{{refuse,{self.id},{self.times}}}"


@dataclass(frozen=True)
class Scenario:
    root: Sup
    steps: tuple[Batch | Advance | Refuse, ...] = field(default=())

    @property
    def moves_time(self) -> bool:
        return any(isinstance(step, Advance) for step in self.steps)

    @property
    def refuses(self) -> bool:
        return any(isinstance(step, Refuse) for step in self.steps)

    @property
    def term(self) -> str:
        clock = "at_hand" if self.moves_time else "real"
        return f"{{{clock},{self.root.flags},[{','.join(step.term for step in self.steps)}]}}."


def _bool(value: bool) -> str:
    return "true" if value else "false"


def random_scenario(seed: int) -> Scenario:
    """The scenario of a seed: the same one every time."""
    return _Maker(Random(seed)).scenario()


class _Maker:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.sups = 0
        self.workers = 0
        # Ids that operations may name, by supervisor; some of them never come to exist.
        self.ids: dict[str, list[str]] = {}

    def scenario(self) -> Scenario:
        random = self.random
        root = self.sup(0, "never")
        steps: list[Batch | Advance | Refuse] = []
        if random.random() < 0.05:
            steps.append(Refuse(f"w{random.randint(1, max(1, self.workers))}", 1))
        moves_time = random.random() < 0.5
        for _ in range(random.randint(2, 9)):
            sup = random.choice(list(root.walk()))
            if moves_time and random.random() < 0.5:
                steps.append(Advance(random.randint(1, 4)))
            if self.ids[sup.id] and random.random() < 0.35:
                steps.append(Refuse(random.choice(self.ids[sup.id]), random.randint(1, 3)))
            steps.append(self.batch(sup))
        return Scenario(root, tuple(steps))

    def sup(self, depth: int, parent_auto: str) -> Sup:
        random = self.random
        self.sups += 1
        name = f"s{self.sups}"
        self.ids[name] = []
        strategies = ["one_for_one", "one_for_all", "rest_for_one", "one_for_all", "rest_for_one", "simple_one_for_one"]
        strategy = random.choice(strategies)
        auto = random.choice(["never", "never", "any_significant", "all_significant"])
        restart = random.choice(["permanent", "permanent", "transient", "temporary"])
        children: list[Worker | Sup] = []
        if strategy == "simple_one_for_one":
            children.append(self.worker("template", auto))
        else:
            for _ in range(random.randint(0, 4)):
                if depth < 2 and random.random() < 0.2:
                    children.append(self.sup(depth + 1, auto))
                else:
                    children.append(self.worker(self.name(name), auto))
        return Sup(
            name,
            strategy,
            random.choice([0, 1, 1, 2, 3, 5]),
            random.randint(1, 5),
            auto,
            tuple(children),
            restart,
            self.significant(restart, parent_auto),
        )

    def name(self, sup: str) -> str:
        self.workers += 1
        self.ids[sup].append(f"w{self.workers}")
        return f"w{self.workers}"

    def worker(self, name: str, auto: str) -> Worker:
        random = self.random
        restart = random.choice(["permanent", "transient", "temporary"])
        times: list[str | int] = ["brutal_kill", "infinity", 5000, 5000]
        shutdown = random.choice(times)
        stubborn = random.random() < 0.06
        if stubborn:
            shutdown = "brutal_kill" if random.random() < 0.5 else 2
        return Worker(name, restart, shutdown, self.significant(restart, auto), stubborn)

    def significant(self, restart: str, auto: str) -> bool:
        return auto != "never" and restart != "permanent" and self.random.random() < 0.6

    def batch(self, sup: Sup) -> Batch:
        random = self.random
        simple = sup.strategy == "simple_one_for_one"
        operations: list[Crash | Add | Ask] = []
        over: set[str] = set()
        for _ in range(random.choice([1, 1, 1, 2, 3, 4])):
            ids = self.ids[sup.id] + [child.id for child in sup.children if isinstance(child, Sup)]
            kind = random.random()
            target = random.choice(ids) if ids else "nobody"
            if kind < 0.6 and target.startswith("w"):
                operations.append(Crash(target, random.choice(["normal", "shutdown", "killed", "crashed", "crashed"])))
                over.add(target)
            elif simple:
                # OTP names a dynamic child by its process, so that after its end in the same batch the name means
                # the dead one; here it means the successor, or nobody.
                if kind < 0.8 or target in over:
                    template = sup.children[0]
                    assert isinstance(template, Worker)
                    added = Worker(self.name(sup.id), template.restart, template.shutdown, False, template.stubborn)
                    operations.append(Add(added, dynamic=True))
                elif kind < 0.9:
                    operations.append(Ask("terminate_dynamic", target))
                    over.add(target)
                else:
                    operations.append(Ask(random.choice(["restart_child", "delete_child"]), target))
            elif kind < 0.75:
                known = target.startswith("w") and random.random() < 0.3
                operations.append(Add(self.worker(target if known else self.name(sup.id), sup.auto_shutdown)))
            else:
                operations.append(Ask(random.choice(["terminate_child", "restart_child", "delete_child"]), target))
        return Batch(sup.id, tuple(operations))
