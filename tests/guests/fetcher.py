"""Guests that reach outside: with calls as they are told, durably, and in a workflow of steps."""

from typing import Any

from plexspaces import actor, handler, host, run_handler, state, workflow_actor


def plain(answer: Any) -> dict:
    return {"status": answer.status, "headers": dict(answer.headers), "text": answer.text, "size": len(answer.content)}


def failed(error: host.HostError) -> dict:
    return {"code": error.code, "message": error.message, "details": error.details}


class Calls:
    """Requests as they are told; answers that are read piece by piece are kept by a name."""

    @handler("fetch")
    def fetch(
        self,
        link: str,
        path: str,
        method: str = "GET",
        body: Any = None,
        headers: dict | None = None,
        timeout_ms: int = 0,
        hexadecimal: str = "",
        size: int = 0,
    ) -> dict:
        content = bytes.fromhex(hexadecimal) if hexadecimal else "x" * size if size else body
        try:
            answer = host.http_fetch(link, method, path, content, headers, timeout_ms)
        except host.HostError as error:
            return failed(error)
        return {**plain(answer), "hexadecimal": answer.content[:64].hex()}

    @handler("read_all")
    def read_all(self, link: str, path: str, timeout_ms: int = 0, pieces_max: int = 1_000_000) -> dict:
        pieces: list[str] = []
        try:
            with host.http_stream(link, "GET", path, timeout_ms=timeout_ms) as answer:
                told = {"status": answer.status, "headers": dict(answer.headers)}
                for piece in answer:
                    pieces.append(piece)
                    if len(pieces) >= pieces_max:
                        break
        except host.HostError as error:
            return {"pieces": pieces, **failed(error)}
        return {"pieces": pieces, **told}

    @handler("open")
    def open(self, name: str, link: str, path: str, timeout_ms: int = 0) -> Any:
        try:
            answer = host.http_stream(link, "GET", path, timeout_ms=timeout_ms)
        except host.HostError as error:
            return failed(error)
        kept = self.__dict__.setdefault("answers", {})
        kept[name] = answer
        return answer.status

    @handler("next")
    def next(self, name: str) -> Any:
        try:
            return next(iter(self.__dict__["answers"][name]), None)
        except host.HostError as error:
            return failed(error)

    @handler("close")
    def close(self, name: str) -> None:
        self.__dict__["answers"][name].close()

    @handler("die")
    def die(self) -> None:
        raise RuntimeError("as told")


@actor
class Fetcher(Calls):
    """Forgets everything."""


@actor(facets=["durability"])
class Payer(Calls):
    """Pays in a handler, and remembers what it was told."""

    paid: list = state(default_factory=list)

    @handler("pay")
    def pay(self, what: str, times: int = 1) -> list:
        for number in range(times):
            answer = host.http_fetch("bank", "POST", f"/pay/{what}/{number}", {"what": what})
            if not answer.ok:
                raise RuntimeError(f"the bank says {answer.status}")
            self.paid.append(answer.json()["receipt"])
        return self.paid

    @handler("get")
    def get(self) -> list:
        return self.paid


@workflow_actor
class Errands:
    """Pays several times, each a step."""

    done: int = state(default=0)

    @run_handler
    def run(self, steps: int = 10, retries: int = 0, timeout_s: float = 30.0) -> list:
        receipts = []
        for number in range(steps):

            def pay(number: int = number) -> str:
                answer = host.http_fetch("bank", "POST", f"/pay/{self.actor_id}/{number}", {"number": number})
                if not answer.ok:
                    raise RuntimeError(f"the bank says {answer.status}")
                return answer.json()["receipt"]

            receipts.append(host.step(f"pay-{number}", pay, retries_max=retries, backoff_s=0.05, timeout_s=timeout_s))
            self.done += 1
        return receipts


ACTOR_REGISTRY = {"fetcher": Fetcher, "payer": Payer, "errands": Errands}
