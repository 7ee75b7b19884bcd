"""A bank account whose money must survive anything."""

from plexspaces import Refuse, actor, handler, host, init_handler, state


@actor(facets=["durability"])
class Account:
    balance: int = state(default=0)
    deposits: int = state(default=0)
    starts: int = state(default=0)

    @init_handler
    def init(self) -> None:
        self.starts += 1

    @handler("deposit")
    def deposit(self, amount: int) -> dict:
        # The bank's own books, by an effect that would be doubled if it were made twice.
        booked = host.kv_increment("booked", amount)
        self.balance += amount
        self.deposits += 1
        return {"balance": self.balance, "booked": booked}

    @handler("withdraw")
    def withdraw(self, amount: int) -> dict:
        if amount > self.balance:
            raise Refuse("insufficient-funds", "the account does not have so much")
        self.balance -= amount
        host.kv_increment("booked", -amount)
        return {"balance": self.balance}

    @handler("transfer")
    def transfer(self, to: str, amount: int) -> dict:
        self.balance -= amount
        host.kv_increment("booked", -amount)
        host.ask(to, "deposit", {"amount": amount})
        return {"balance": self.balance}

    @handler("balance")
    def read(self) -> dict:
        return {"balance": self.balance, "deposits": self.deposits, "booked": host.kv_get("booked", 0)}
