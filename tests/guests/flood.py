"""Guests of the fairness tests: actors that keep a node as busy as they can, and one that only answers."""

from plexspaces import actor, handler, host, state


@actor
class Flood:
    turns: int = state(default=0)

    @handler("spin", ["call", "cast"])
    def spin(self) -> None:
        """Goes on for ever, a short message at a time."""
        self.turns += 1
        host.send(host.self_id(), "spin", {})

    @handler("grind", ["call", "cast"])
    def grind(self, rounds: int = 50_000) -> None:
        """Goes on for ever, each message some slices long."""
        self.turns += 1
        for _ in range(rounds):
            pass
        host.send(host.self_id(), "grind", {"rounds": rounds})

    @handler("loop", ["call", "cast"])
    def loop(self) -> None:
        """One message that never ends."""
        while True:
            pass

    @handler("size")
    def size(self, text: str) -> int:
        return len(text)

    @handler("turns")
    def how_many(self) -> int:
        return self.turns


@actor
class Quiet:
    asked: int = state(default=0)

    @handler("ask")
    def ask(self) -> int:
        self.asked += 1
        return self.asked


ACTOR_REGISTRY = {"flood": Flood, "quiet": Quiet}
