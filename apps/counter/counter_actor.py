"""A counter: the smallest actor that remembers something."""

from plexspaces import actor, handler, state


@actor(facets=["durability"])
class Counter:
    count: int = state(default=0)

    @handler("increment")
    def increment(self, amount: int = 1) -> dict:
        self.count += amount
        return {"count": self.count}

    @handler("get")
    def get(self) -> dict:
        return {"count": self.count}
