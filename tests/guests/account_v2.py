"""The bank account of account.py after two years: its state has another form, and what it answers is the same."""

from plexspaces import actor, handler, host, migrate_handler, state


@actor(facets=["durability"], version=2)
class Account:
    cents: int = state(default=0)
    deposits: int = state(default=0)
    migrated: bool = state(default=False)

    @migrate_handler(1)
    def in_cents(self, fields: dict) -> None:
        fields["cents"] = fields.pop("balance") * 100
        fields["migrated"] = True
        del fields["starts"]

    @handler("deposit")
    def deposit(self, amount: int) -> dict:
        booked = host.kv_increment("booked", amount)
        self.cents += amount * 100
        self.deposits += 1
        return {"balance": self.cents // 100, "booked": booked}

    @handler("look")
    def look(self) -> dict:
        return {"cents": self.cents, "deposits": self.deposits, "migrated": self.migrated}


@actor(facets=["durability"], version=2)
class Careless:
    """The same, by somebody who has not thought of what is recorded."""

    cents: int = state(default=0)

    @migrate_handler(1)
    def in_cents(self, fields: dict) -> None:
        fields["cents"] = fields["balance"] * 100

    @handler("deposit")
    def deposit(self, amount: int) -> dict:
        host.kv_put("last", amount)
        self.cents += amount * 100
        return {"balance": self.cents // 100, "booked": host.kv_increment("booked", amount)}


ACTOR_REGISTRY = {"account": Account, "careless": Careless}
