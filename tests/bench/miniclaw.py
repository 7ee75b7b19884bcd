"""What MiniClaw adds to the time that its models take: a turn alone, two hundred sessions at once, the first token.

The node, the provider and the one who asks are processes of their own, and speak HTTP with each other.  The framework's
share of a turn is what the client waits, less what the provider took, by the provider's own clock, from having read a
request to having written the answer's last byte.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.acceptance.claw import Claw, Provider, configuration, in_turn, says

from .common import ROOT, Row, median, percentile

# Conversations of so many turns each.  They take turns, for a stream takes at most 100 events a second.
_TALKS = 15
_TURNS = 10
_SESSIONS = 200
_STREAMS = 60
# How long a model takes for an answer where it is not instant, a turn with tools being two answers, and how long a
# person takes to read it and to write again.
_PROVIDER_S = 2.0
_PERSON_S = 6.0


# -- the provider ------------------------------------------------------------------------------------------


class Instant:
    """Speaks OpenAI's API as fast as it can: two tool calls, then a text; it keeps how long it took, by turn.

    What the user says is `WORDS DELAY_S NAME`: `tools` wants tools, and everything waits so long before it answers.
    """

    def __init__(self) -> None:
        self.spent_ns: dict[str, int] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
                body = await reader.readexactly(length)
                began = time.monotonic_ns()
                if head.startswith("get"):
                    answer = json.dumps(self.spent_ns).encode()
                    self.spent_ns.clear()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))
                    continue
                messages = json.loads(body)["messages"]
                words, delay_s, name = next(m for m in reversed(messages) if m["role"] == "user")["content"].split()
                if float(delay_s):
                    await asyncio.sleep(float(delay_s))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for event in self._events(words == "tools" and messages[-1]["role"] == "user", name):
                    data = b"data: " + (b"[DONE]" if event is None else json.dumps(event).encode()) + b"\n\n"
                    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                self.spent_ns[name] = self.spent_ns.get(name, 0) + time.monotonic_ns() - began
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _events(self, tools: bool, name: str) -> list[Any]:
        usage = {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
        if tools:
            wanted = [
                {
                    "index": n,
                    "id": f"{name}_{n}",
                    "function": {"name": "calculator", "arguments": '{"expression": "6*7"}'},
                }
                for n in range(2)
            ]
            delta = {"choices": [{"index": 0, "delta": {"tool_calls": wanted}, "finish_reason": "tool_calls"}]}
            return [delta, usage, None]
        # The moment of sending: whoever reads it knows how old it is, for the clock is the machine's.
        text = {"choices": [{"index": 0, "delta": {"content": str(time.monotonic_ns())}}]}
        return [text, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, usage, None]


async def _provide() -> None:
    server = await asyncio.start_server(Instant().serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def _provider() -> Any:
    command = [sys.executable, "-m", "tests.bench.miniclaw"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


# -- the client --------------------------------------------------------------------------------------------


class Connection:
    """One connection over which one request follows another: nothing of a client library's is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader = reader
        self._writer = writer
        self._token = token

    def send(self, method: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"authorization: Bearer {self._token}"]
        lines += [f"content-length: {len(data)}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    async def head(self) -> tuple[int, str]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        return int(head.split()[1]), head

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        self.send(method, path, body)
        status, head = await self.head()
        answer = await self._reader.readexactly(int(head.partition("content-length:")[2].split("\r\n")[0]))
        assert status == 200, answer
        return json.loads(answer)

    async def chunks(self) -> AsyncIterator[tuple[int, bytes]]:
        """The pieces of an answer, each with the moment of its arrival."""
        while length := int(await self._reader.readuntil(b"\r\n"), 16):
            data = await self._reader.readexactly(length + 2)
            yield time.monotonic_ns(), data
        await self._reader.readexactly(2)

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def _connected(port: int, token: str = "") -> AsyncIterator[Connection]:
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port), token)
    try:
        yield connection
    finally:
        connection.close()


class Bench:
    """A node with MiniClaw, and its provider."""

    def __init__(self, claw: Claw, provider_port: int) -> None:
        self.claw = claw
        self.port = int(claw.url.rpartition(":")[2])
        self._provider_port = provider_port
        self._named = 0

    async def turns(
        self, sessions: list[str], count: int, words: str, delay_s: float = 0.0, pause_s: float = 0.0
    ) -> list[tuple[str, float]]:
        """Turns of these sessions, one after the other: the name of each, and how many milliseconds it took."""
        took = []
        async with _connected(self.port, self.claw.token) as node:
            for number in range(count):
                for session in sessions:
                    if number and pause_s:
                        await asyncio.sleep(pause_s)
                    self._named += 1
                    name = f"turn_{self._named}"
                    path = f"/api/v1/actors/default/default/agent/{session}?wait=60"
                    began = time.monotonic_ns()
                    reply = await node.ask("POST", path, {"op": "chat", "message": f"{words} {delay_s} {name}"})
                    took.append((name, (time.monotonic_ns() - began) / 1e6))
                    assert reply["status"] == "ok", reply
                    assert not reply["simulated"], reply
                    assert reply["rounds"] == (2 if words == "tools" else 1), reply
        return took

    async def at_once(
        self, count: int, delay_s: float = 0.0, pause_s: float = 0.0, within_s: float = 0.0
    ) -> list[tuple[str, float]]:
        """So many turns of each session, all sessions at once, the first of them begun within so many seconds."""

        async def talk(number: int) -> list[tuple[str, float]]:
            await asyncio.sleep(number / _SESSIONS * within_s)
            return await self.turns([f"many-{number}"], count, "tools", delay_s, pause_s)

        return [each for took in await asyncio.gather(*map(talk, range(_SESSIONS))) for each in took]

    async def shares(self, took: list[tuple[str, float]]) -> list[float]:
        """The framework's share of each turn, in milliseconds."""
        async with _connected(self._provider_port) as provider:
            spent = await provider.ask("GET", "/")
        return [ms - spent[name] / 1e6 for name, ms in took]

    async def first_token_ms(self, number: int) -> float:
        """From the provider's sending of a token to its arrival at the HTTP client."""
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": f"text 0.05 s{number}"}]}
        async with _connected(self.port, self.claw.token) as node:
            node.send("POST", "/v1/chat/completions", body, **{"x-session-id": f"stream-{number % 4}"})
            await node.head()
            first = 0.0
            async for arrived, chunk in node.chunks():
                for line in chunk.split(b"\n"):
                    if not first and line.startswith(b"data: {"):
                        choices = json.loads(line[6:])["choices"]
                        text = choices[0]["delta"].get("content") if choices else None
                        first = (arrived - int(text)) / 1e6 if text else 0.0
        assert first
        return first


# -- figures -----------------------------------------------------------------------------------------------


async def run() -> list[Row]:
    with TemporaryDirectory() as folder, _provider() as port:
        model = Provider(in_turn(says("")), url=f"http://127.0.0.1:{port}")
        limits = {
            "budgets = { session_usd = 5.0, day_usd = 50.0 }": "budgets = { session_usd = 500.0, day_usd = 5000.0 }"
        }
        claw = Claw(Path(folder) / "data", configuration(model, **limits))
        try:
            bench = Bench(claw, port)
            return [*await _alone(bench), *await _first_token(bench), *await _at_once(bench)]
        finally:
            claw.end()


async def _alone(bench: Bench) -> list[Row]:
    await bench.turns([f"warm-{number}" for number in range(8)], 4, "tools")
    talks = [[f"{words}-{number}" for number in range(_TALKS)] for words in ("tools", "text")]
    await bench.shares([])
    tools = await bench.shares(await bench.turns(talks[0], _TURNS, "tools"))
    plain = await bench.shares(await bench.turns(talks[1], _TURNS, "text"))
    # The first turn of each makes the actors of its session.
    made, tools, plain = tools[:_TALKS], tools[_TALKS:], plain[_TALKS:]
    return [
        Row.at_most("framework's share of a turn with two tool calls, median", median(tools), 15, "ms"),
        Row("the same, 95th percentile", f"{percentile(tools, 0.95):.1f} ms"),
        Row("the same of a session's first turn, median", f"{median(made):.1f} ms"),
        Row("framework's share of a turn without tools, median", f"{median(plain):.1f} ms"),
    ]


async def _first_token(bench: Bench) -> list[Row]:
    ages = [await bench.first_token_ms(number) for number in range(_STREAMS)][4:]
    return [
        Row.at_most("first token, provider's sending to the client's reading, median", median(ages), 10, "ms"),
        Row("the same, 95th percentile", f"{percentile(ages, 0.95):.1f} ms"),
    ]


async def _at_once(bench: Bench) -> list[Row]:
    began = time.monotonic()
    made = await bench.at_once(1)
    made_s = time.monotonic() - began
    began = time.monotonic()
    burst = await bench.at_once(2)
    rate = len(burst) / (time.monotonic() - began)
    await bench.shares([])
    talks = await bench.shares(await bench.at_once(3, _PROVIDER_S, _PERSON_S, 2 * _PROVIDER_S + _PERSON_S))
    never = await bench.shares(await bench.at_once(2, _PROVIDER_S, 0, 2 * _PROVIDER_S))
    answered = len(made) + len(burst) + len(talks) + len(never)
    return [
        Row(f"{_SESSIONS} sessions are made, each with its first turn, all at once", f"{made_s:.1f} s"),
        Row(f"{_SESSIONS} sessions at once against an instant provider", f"{rate:.0f} turns/s"),
        Row(
            f"{_SESSIONS} sessions talk, an answer takes 2 s and a person 6 s: share of a turn, median",
            f"{median(talks):.1f} ms",
        ),
        Row.at_most("the same, 95th percentile", percentile(talks, 0.95), 250, "ms"),
        Row("the same, but people take no time, 95th percentile", f"{percentile(never, 0.95):.0f} ms"),
        Row.at_least("turns that were answered, of all", answered / (_SESSIONS * 8) * 100, 100, "%"),
    ]


if __name__ == "__main__":
    asyncio.run(_provide())
