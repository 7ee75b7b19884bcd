"""Guests of the workflow tests: a trip that is booked in steps, and the ledger where it shows what was done."""

from plexspaces import Refuse, actor, handler, host, query_handler, run_handler, signal_handler, state, workflow_actor


@actor(facets=["durability"])
class Ledger:
    """What the outside world has seen, in order."""

    seen: list = state(default_factory=list)
    failing: dict = state(default_factory=dict)

    @handler("do")
    def do(self, what: str) -> str:
        if self.failing.get(what, 0) > 0:
            self.failing[what] -= 1
            raise Refuse("busy", f"{what} does not work")
        self.seen.append(what)
        return f"{what} done"

    @handler("fail")
    def fail(self, what: str, times: int) -> None:
        self.failing[what] = times

    @handler("slow")
    def slow(self, seconds: float) -> str:
        host.sleep(seconds)
        return "late"

    @handler("seen")
    def all_seen(self) -> list:
        return self.seen

    @handler("resolve")
    def resolve(self, promise: str, value: dict) -> None:
        host.workflow.resolve(promise, value)

    @handler("send")
    def send(self, to: str, op: str, arguments: dict) -> None:
        host.send(to, op, arguments)

    @handler("ask")
    def ask(self, to: str, op: str) -> dict:
        return {"answer": host.ask(to, op)}


def do(what: str):
    return lambda: host.ask("ledger", "do", {"what": what})


@workflow_actor
class Trip:
    """Books three things, with a night in between; what is booked is undone if it does not come about."""

    stage: str = state(default="new")
    approved: str = state(default="")
    promise: str = state(default="")

    @run_handler
    def run(
        self, city: str, night_s: float = 0.2, approval: bool = False, boss: bool = False, retries: int = 0
    ) -> dict:
        self.stage = "flight"
        flight = host.step("flight", do(f"flight {city}"), compensate=do("cancel flight"))
        if boss:
            self.promise = host.workflow.promise("the boss agrees")
            self.stage = "boss"
            self.boss = host.workflow.wait(self.promise)
        self.stage = "approval"
        while approval and not self.approved:
            if host.workflow.next_signal(timeout_ms=30_000) is None:
                raise Refuse("expired", "nobody has approved it in time")
        self.stage = "night"
        host.workflow.sleep(night_s)
        self.stage = "hotel"
        hotel = host.step("hotel", do("hotel"), retries_max=retries, backoff_s=0.05, compensate=self.no_hotel)
        self.stage = "car"
        car = host.step("car", do("car"), retries_max=retries, backoff_s=0.05)
        self.stage = "booked"
        return {"booked": [flight, hotel, car], "approved": self.approved}

    def no_hotel(self, booked: str) -> None:
        host.ask("ledger", "do", {"what": f"cancel: {booked}"})

    @signal_handler("approve")
    def approve(self, by: str) -> None:
        self.approved = by

    @query_handler("stage")
    def get_stage(self) -> str:
        return self.stage

    @query_handler("promise")
    def get_promise(self) -> str:
        return self.promise

    @query_handler("curious")
    def curious(self) -> str:
        return host.kv_get("x")

    @handler("ping")
    def ping(self) -> str:
        return "pong"


@workflow_actor
class Chain:
    """Ten steps, each of which the ledger sees, with naps in between."""

    done: int = state(default=0)

    @run_handler
    def run(self, steps: int = 10, nap_s: float = 0.0) -> list:
        results = []
        for number in range(steps):
            results.append(host.step(f"step-{number}", do(f"{self.actor_id} {number}")))
            self.done += 1
            if nap_s:
                host.workflow.sleep(nap_s)
        return results

    @query_handler("done")
    def how_many(self) -> int:
        return self.done


@workflow_actor
class Impatient:
    @run_handler
    def run(self, timeout_s: float, retries: int = 0) -> str:
        ask = lambda: host.ask("ledger", "slow", {"seconds": 5})  # noqa: E731
        return host.step("slow", ask, timeout_s=timeout_s, retries_max=retries, backoff_s=0.01)


@workflow_actor
class Buggy:
    @run_handler
    def run(self, how: str) -> None:
        host.step("one", do("one"))
        if how == "memory":
            try:
                host.ask("nobody", "x")
            except host.ActorNotFound:
                host.workflow.next_signal(timeout_ms=None)
            hoard = []
            while True:
                hoard.append(bytearray(1 << 20))
        raise KeyError(how)


ACTOR_REGISTRY = {"ledger": Ledger, "trip": Trip, "chain": Chain, "impatient": Impatient, "buggy": Buggy}
