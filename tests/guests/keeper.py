"""Guests that are told secrets, and let them out wherever they can: replies, state, stores, logs, crashes, requests."""

from dataclasses import dataclass
from typing import Any

from plexspaces import Secret, actor, handler, host, run_handler, state, workflow_actor


@dataclass
class Login:
    user: str
    password: Secret


class Blabbers:
    """Say everything they know."""

    @handler("connect")
    def connect(self, api_key: Secret, token: str = "", links: list | None = None) -> dict:
        return self.register(token, api_key, links or ["service"])

    @handler("connect_plainly")
    def connect_plainly(self, value: str, token: str = "", links: list | None = None) -> dict:
        return self.register(token, value, links or ["service"])

    def register(self, token: str, value: str, links: list) -> dict:
        try:
            made = host.register_credential(token, value, links)
        except host.HostError as error:
            return {"code": error.code, "message": error.message}
        return {"seen": value, "token": made}

    @handler("forget")
    def forget(self, token: str) -> bool:
        return host.forget_credential(token)

    @handler("blab")
    def blab(self, api_key: Secret, login: Login | None = None, other: str = "") -> dict:
        seen = [api_key, other, *([login.password] if login else [])]
        text = " ".join(seen)
        self.kept.append(text)
        host.info(f"told {text}")
        print("printed", text)
        host.kv_put("kept", text)
        host.blob_put("kept", text.encode())
        host.stream.append("/kept", "told", {"text": text})
        host.channel.send("", "kept", "told", {"text": text})
        host.ts.write(["kept", text])
        return {"seen": seen}

    @handler("hold")
    def hold(self, text: str) -> None:
        """Keep something where nobody else looks."""
        self.kept.append(text)
        host.kv_put("held", text)
        host.blob_put("held", text.encode())
        host.stream.append("/held", "held", {"text": text})
        host.channel.send("", "held", "held", {"text": text})
        host.ts.write(["held", text])

    @handler("pass_on")
    def pass_on(self, to: str, api_key: Secret, plain: str = "") -> dict:
        answer = host.ask(to, "blab", {"api_key": plain or api_key})
        host.send(to, "blab", {"api_key": plain or api_key})
        return {"mine": api_key, "theirs": answer["seen"][0]}

    @handler("crash")
    def crash(self, api_key: Secret) -> None:
        raise RuntimeError(f"the key {api_key} is bad")

    @handler("fetch")
    def fetch(self, path: str, headers: dict | None = None, body: Any = None, link: str = "service") -> dict:
        try:
            answer = host.http_fetch(link, "POST", path, body, headers)
        except host.HostError as error:
            self.kept.append(error.message)
            host.warn(error.message)
            return {"code": error.code, "message": error.message}
        self.kept.append(answer.text)
        host.info(answer.text)
        host.stream.append("/answers", "answer", {"text": answer.text, "headers": answer.headers})
        return {"status": answer.status, "text": answer.text, "headers": answer.headers}

    @handler("read")
    def read(self, path: str, headers: dict | None = None, link: str = "service") -> dict:
        try:
            with host.http_stream(link, "POST", path, None, headers) as answer:
                pieces = list(answer)
        except host.HostError as error:
            return {"code": error.code, "message": error.message}
        self.kept.extend(pieces)
        for piece in pieces:
            host.stream.append("/answers", "piece", {"text": piece})
        return {"text": "".join(pieces), "headers": answer.headers}

    @handler("crash_with_answer")
    def crash_with_answer(self, path: str, headers: dict | None = None) -> None:
        raise RuntimeError(host.http_fetch("service", "POST", path, None, headers).text)

    @handler("get")
    def get(self) -> list:
        return self.kept


@actor
class Plain(Blabbers):
    kept: list = state(default_factory=list)


@actor(facets=["durability"])
class Durable(Blabbers):
    kept: list = state(default_factory=list)


@workflow_actor
class Errand:
    seen: list = state(default_factory=list)

    @run_handler
    def run(self, api_key: Secret, path: str = "/echo") -> dict:
        self.seen.append(api_key)
        token = host.step("register", lambda: host.register_credential("", api_key, ["service"]))
        headers = {"Authorization": f"Bearer {token}"}
        text = host.step("fetch", lambda: host.http_fetch("service", "POST", path, None, headers).text)
        return {"seen": api_key, "text": text}


ACTOR_REGISTRY = {"plain": Plain, "durable": Durable, "errand": Errand}
