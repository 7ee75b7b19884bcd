"""Actors for the tests, all in one component because each component costs seconds to build and to compile."""

import dataclasses
import datetime
import decimal
import enum
import faulthandler
import json
import logging
import os
import pathlib
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
from random import random as random_by_name

from plexspaces import Refuse, actor, handler, host, init_handler, state, terminate_handler


@actor
class Echo:
    """Gives back what it gets, now or later."""

    seen: int = state(default=0)
    held: list = state(default_factory=list)

    @handler("hold")
    def hold(self) -> object:
        self.held.append(self.context.message_id)
        return host.NO_REPLY

    @handler("release")
    def release(self, value: object = None) -> int:
        held, self.held = self.held, []
        for message_id in held:
            host.reply(message_id, value)
        return len(held)

    @handler("echo")
    def echo(self, value: object = None) -> object:
        self.seen += 1
        return value

    @handler("late")
    def late(self, ms: int, value: object = None) -> object:
        host.sleep(ms / 1000)
        self.seen += 1
        return value

    @handler("nothing")
    def nothing(self) -> None:
        return None

    @handler("whoami")
    def whoami(self) -> dict:
        context = self.context
        return {
            "actor_id": self.actor_id,
            "self_id": host.self_id(),
            "sender": self.sender,
            "subject": getattr(context, "subject", ""),
            "roles": sorted(getattr(context, "roles", ())),
        }

    @handler("seen")
    def count(self) -> int:
        return self.seen

    @handler("refuse")
    def refuse(self, code: str = "not-today") -> None:
        raise Refuse(code, "not today", asked=code)


@actor
class Relay:
    """Talks to others."""

    @handler("ask")
    def ask(self, to: str, op: str, payload: dict | None = None, timeout_ms: int = 0) -> object:
        return host.ask(to, op, payload or {}, timeout_ms)

    @handler("ask_caught")
    def ask_caught(self, to: str, op: str, payload: dict | None = None, timeout_ms: int = 0) -> dict:
        try:
            return {"reply": host.ask(to, op, payload or {}, timeout_ms)}
        except Exception as error:
            return {"code": getattr(error, "code", type(error).__name__), "message": str(error)}

    @handler("ask_after")
    def ask_after(self, ms: int, to: str, op: str, payload: dict | None = None) -> object:
        host.sleep(ms / 1000)
        return host.ask(to, op, payload or {})

    @handler("ask_many")
    def ask_many(self, to: list[str], op: str, payload: dict | None = None, timeout_ms: int = 0) -> list:
        answers = host.ask_many([(name, op, payload or {}) for name in to], timeout_ms)
        return [{"code": answer.code} if isinstance(answer, Exception) else answer for answer in answers]

    @handler("send")
    def send(self, to: str, op: str, payload: dict | None = None, times: int = 1) -> list:
        return [host.send(to, op, payload or {}) for _ in range(times)]

    @handler("pass_on")
    def pass_on(self, path: list[str], op: str, payload: dict | None = None) -> object:
        """Ask the first of the path to ask the next, and so on; the last gets the operation."""
        if len(path) == 1:
            return host.ask(path[0], op, payload or {})
        return host.ask(path[0], "pass_on", {"path": path[1:], "op": op, "payload": payload or {}})


@actor
class Hostile:
    """Does what no actor should; each way harms only itself."""

    calls: int = state(default=0)

    @handler("ping")
    def ping(self) -> dict:
        self.calls += 1
        return {"calls": self.calls}

    @handler("memory_bomb")
    def memory_bomb(self) -> int:
        kept = []
        while True:
            kept.append(bytearray(1 << 20))

    @handler("memory_crumbs")
    def memory_crumbs(self) -> int:
        # In small pieces, until nothing at all is left.
        kept: list = []
        while True:
            row: list = []
            kept.append(row)
            for _ in range(1000):
                row.append(bytearray(16))

    @handler("crash")
    def crash(self, message: str = "as you wished") -> None:
        raise RuntimeError(message)

    @handler("base_exception")
    def base_exception(self) -> None:
        raise BaseException("not even an Exception")

    @handler("keyboard_interrupt")
    def keyboard_interrupt(self) -> None:
        raise KeyboardInterrupt

    @handler("os_exit")
    def os_exit(self) -> None:
        os._exit(3)

    @handler("sys_exit")
    def sys_exit(self) -> None:
        sys.exit(4)

    @handler("trap")
    def trap(self) -> None:
        # Reached past the SDK's sandbox: aborts in C, which is wasm's `unreachable`.
        faulthandler._sigabrt()  # type: ignore[attr-defined]

    @handler("abort")
    def abort(self) -> None:
        os.abort()

    @handler("recurse")
    def recurse(self) -> int:
        def down(depth: int) -> int:
            return down(depth + 1) + 1

        return down(0)

    @handler("recurse_in_c")
    def recurse_in_c(self) -> str:
        sys.setrecursionlimit(10_000_000)
        nested: list = []
        for _ in range(1_000_000):
            nested = [nested]
        return repr(nested)

    @handler("deep_json")
    def deep_json(self, depth: int = 1_000_000) -> int:
        return len(json.loads("[" * depth + "]" * depth))

    @handler("big_reply")
    def big_reply(self, size_bytes: int = 10 << 20) -> str:
        return "x" * size_bytes

    @handler("log_lines")
    def log_lines(self, count: int = 1_000_000) -> int:
        for number in range(count):
            host.info(f"line {number}")
        return count

    @handler("long_line")
    def long_line(self, size_bytes: int = 1 << 20) -> int:
        host.info("x" * size_bytes)
        return size_bytes

    @handler("print_lines")
    def print_lines(self, count: int = 3) -> int:
        for number in range(count):
            print("printed", number)
        return count

    @handler("loop")
    def loop(self) -> None:
        while True:
            pass

    @handler("loop_catching")
    def loop_catching(self) -> None:
        while True:
            try:
                while True:
                    pass
            except BaseException:
                continue

    @handler("loop_calling")
    def loop_calling(self) -> None:
        while True:
            host.now_ms()

    @handler("big_ask")
    def big_ask(self, to: str, size_bytes: int) -> object:
        return host.ask(to, "echo", {"value": "x" * size_bytes})

    @handler("surrogates")
    def surrogates(self) -> str:
        return "\ud800 no text"

    @handler("open_file")
    def open_file(self, path: str = "/etc/passwd") -> str:
        with open(path) as file:
            return file.read()

    @handler("not_json")
    def not_json(self) -> object:
        return object()


# Made while the component is built, when there is no chance to be had.
EARLY = random.Random()
SEEDED = random.Random(20)


@actor
class Sources:
    """Time and chance as the standard library gives them."""

    @handler("time")
    def time(self) -> dict:
        return {
            "time": time.time(),
            "monotonic": time.monotonic(),
            "now_ms": host.now_ms(),
            "datetime": datetime.datetime.now(datetime.UTC).isoformat(),
            "strptime": datetime.datetime.strptime("2024-02-29", "%Y-%m-%d").date().isoformat(),
        }

    @handler("chance")
    def chance(self) -> dict:
        return {
            "random": random.random(),
            "from_import": random_by_name(),
            "own_generator": random.Random().random(),
            "early_generator": EARLY.random(),
            "system": random.SystemRandom().random(),
            "uuid1": str(uuid.uuid1()),
            "uuid4": str(uuid.uuid4()),
            "token": secrets.token_hex(8),
            "urandom": os.urandom(8).hex(),
            "host": host.random_bytes(8).hex(),
        }

    @handler("seeded")
    def seeded(self) -> list:
        return [SEEDED.random(), random.Random(7).random()]

    @handler("output")
    def output(self) -> None:
        print("printed", 1)
        print("two lines\nin one call")
        print("to ", end="", file=sys.stderr)
        print("stderr", file=sys.stderr)
        logging.warning("through logging")

    @handler("attempt")
    def attempt(self, what: str) -> dict:
        attempts = {
            "open": lambda: open("/etc/passwd").close(),
            "write": lambda: open("out.txt", "w").close(),
            "pathlib": lambda: pathlib.Path("/etc/passwd").read_text(),
            "listdir": lambda: os.listdir("/"),
            "socket": lambda: socket.socket(),
            "connect": lambda: socket.create_connection(("127.0.0.1", 80)),
            "subprocess": lambda: subprocess.run(["ls"]),
            "system": lambda: os.system("ls"),
            "thread": lambda: threading.Thread(target=print).start(),
            "exit": lambda: os._exit(1),
            "input": lambda: input(),
            # Not in one piece, or the builder would find it and bring it along.
            "missing": lambda: __import__("wa" + "ve"),
            "syntax": lambda: exec("a b"),
        }
        try:
            attempts[what]()
        except Exception as error:
            return {"kind": type(error).__name__, "text": str(error)}
        return {"kind": "", "text": "nothing was raised"}

    @handler("sleep")
    def sleep(self, ms: int) -> float:
        before = time.monotonic()
        time.sleep(ms / 1000)
        return time.monotonic() - before

    @handler("imports")
    def imports(self) -> dict:
        """What is imported in a function: found by the builder, or not there at all."""
        import decimal
        from email import message

        encoded = "Grüße".encode("cp1252").decode("latin-1")
        return {"decimal": str(decimal.Decimal("1.10")), "email": message.__name__, "encoded": encoded}

    @handler("import_named")
    def import_named(self, name: str) -> str:
        return __import__(name).__name__


@actor
class Worker:
    """Computes, for as long as it is told."""

    done: int = state(default=0)

    @handler("compute")
    def compute(self, rounds: int) -> int:
        total = 0
        for number in range(rounds):
            total += number * number % 7
        self.done += 1
        return total

    @handler("compute_and_ask")
    def compute_and_ask(self, rounds: int, to: str, op: str, times: int = 1) -> list:
        replies = []
        for _ in range(times):
            self.compute(rounds)
            replies.append(host.ask(to, op, {}))
        return replies


@actor
class Memory:
    """Remembers its life: how it began, what it holds, how it ended."""

    values: dict = state(default_factory=dict)
    born: int = state(default=0)
    args: dict = state(default_factory=dict)

    @init_handler
    def begin(self, config: dict) -> None:
        self.args = dict(config.get("args") or {})
        if self.args.get("fail"):
            raise ValueError("told to fail")
        if not config.get("restored"):
            self.born += 1

    @handler("put")
    def put(self, name: str, value: object) -> dict:
        self.values[name] = value
        return {"size": len(self.values)}

    @handler("get")
    def get(self) -> dict:
        return {"values": self.values, "born": self.born, "args": self.args}

    @handler("put_and_crash")
    def put_and_crash(self, name: str, value: object) -> None:
        self.values[name] = value
        raise RuntimeError("after writing")

    @handler("fill")
    def fill(self, size_bytes: int) -> int:
        self.values["filling"] = "x" * size_bytes
        return size_bytes

    @terminate_handler
    def end(self, reason: str) -> None:
        host.info(f"ended: {reason}")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Order:
    number: int
    price: decimal.Decimal
    tags: set


def everything() -> dict:
    """A value of every kind that state may hold."""
    return {
        "bytes": b"\x00\xff",
        "datetime": datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
        "naive": datetime.datetime(2024, 2, 29),
        "date": datetime.date(2024, 2, 29),
        "time": datetime.time(23, 59, 59, 999_999),
        "timedelta": datetime.timedelta(days=-1, microseconds=1),
        "decimal": decimal.Decimal("1.10"),
        "set": {1, "two", (3,)},
        "frozenset": frozenset({b"x"}),
        "tuple": (1, (2, ())),
        "dataclass": Order(7, decimal.Decimal("0.1"), {"new"}),
        "enum": Colour.RED,
        "uuid": uuid.UUID(int=5),
        "big": 2**200,
        "float": [1.0, float("inf"), -0.0],
        "complex_keys": {1: "one", (1, 2): "pair", None: "nothing", "1": "text"},
        "empties": {"list": [], "dict": {}, "tuple": (), "set": set(), "bytes": b"", "text": "", "nested": [[], [{}]]},
        "mistakable": {"$tuple": [1]},
        "text": "Grüße \U0001f600 \x00",
    }


@actor
class Keeper:
    """Keeps a value of every kind."""

    kept: dict = state(default_factory=dict)
    filled: int = state(default=0)

    @handler("fill")
    def fill(self) -> dict:
        self.kept = everything()
        self.filled += 1
        return self._reprs()

    @handler("check")
    def check(self) -> dict:
        return {"same": self.kept == everything(), "filled": self.filled, "reprs": self._reprs()}

    def _reprs(self) -> dict:
        # Types as well, which equality does not tell: 1 and 1.0 and True are equal.  Sets have no order.
        return {
            name: repr(sorted(map(repr, value)) if isinstance(value, set | frozenset) else value)
            for name, value in self.kept.items()
        }


ACTOR_REGISTRY = {
    "echo": Echo,
    "relay": Relay,
    "hostile": Hostile,
    "sources": Sources,
    "keeper": Keeper,
    "worker": Worker,
    "memory": Memory,
}
