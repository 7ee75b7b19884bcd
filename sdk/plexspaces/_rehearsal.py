"""A rehearsal while a component is built: what an instance's first messages would write to memory is written before.

All instances share the memory as the build left it, page by page until they write to it.  CPython writes as it runs for
the first time: it adapts its bytecode to what comes by, remembers attributes it has looked up, fills free lists.  An
actor of our own therefore lives here many times over, against a host that is a table, so that the pages are as they
would be after a while.  Nothing of the author's is run.
"""

# The decorators take whatever they are put before, and give it members that the type checker does not see.
# mypy: disable-error-code="untyped-decorator, attr-defined"

from __future__ import annotations

import json
import random
import time
from types import SimpleNamespace
from typing import Any, Final

from . import _imports, _sandbox, host
from ._declare import actor, handler, init_handler, state
from ._version import __version__
from ._world import make_world
from .definition import ActorDefinition
from .errors import Refuse

# CPython adapts code after a few rounds, and takes another handful to settle on what it has seen several kinds of.
_ROUNDS: Final = 64


@actor
class _Rehearsing:
    """Does a little of everything that most actors do."""

    count: int = state(default=0)
    items: list[Any] = state(default_factory=list)
    table: dict[str, Any] = state(default_factory=dict)

    @init_handler
    def begin(self, config: dict[str, Any]) -> None:
        self.table = dict(config["args"])

    @handler("add")
    def add(self, amount: int = 1) -> dict[str, Any]:
        self.count += amount
        return {"count": self.count}

    @handler("get")
    def get(self) -> dict[str, Any]:
        return {"count": self.count}

    @handler("put")
    def put(self, name: str, value: Any = None) -> list[Any]:
        self.table[name] = value
        self.items = [name, 1.5, None, True]
        return self.items

    @handler("ask")
    def ask(self, to: str) -> Any:
        host.info(to)
        return host.ask(to, "get", {"sender": self.sender, "subject": self.context.subject, "at": time.time()})

    @handler("refuse")
    def refuse(self) -> None:
        raise Refuse("not-today", "not today", count=self.count)


_CALLS: Final = (
    ("add", '{"amount":2}'),
    ("get", "{}"),
    ("add", "{}"),
    ("put", '{"name":"a","value":{"b":[1,2.5,"c",null,true]}}'),
    ("ask", '{"to":"other/one"}'),
    ("refuse", "{}"),
    ("add", '{"amount":"two"}'),
    ("nothing", "{}"),
)


def _host(err: type[BaseException]) -> Any:
    """Answers like a node, and does nothing."""
    return SimpleNamespace(
        Err=err,
        clock=SimpleNamespace(now_ns=lambda: _sandbox.BUILD_TIME_NS, monotonic_ns=lambda: 0),
        random=SimpleNamespace(random_hex=lambda size: "5a" * size),
        logging=SimpleNamespace(Level=SimpleNamespace(INFO=1, WARN=2, DEBUG=0, ERROR=3), log=lambda level, line: None),
        messaging=SimpleNamespace(ask=lambda to, op, payload, timeout_ms: '{"count":1}'),
    )


def rehearse(types: Any, err: type[BaseException]) -> None:
    """Live through `_ROUNDS` lives.  Leaves everything as it was, but for what the interpreter has learned.

    Args:
        types: the bindings' `types` module.
        err: the bindings' `Err`.
    """
    definitions = {"rehearsing": ActorDefinition.of(_Rehearsing)}
    outside = _host(err)
    chance = random.getstate()
    before = _imports.bind(outside)
    _sandbox.activate(outside)
    try:
        for number in range(_ROUNDS):
            _live(definitions, types, err, number)
            random.seed()
    finally:
        _sandbox.activate(None)
        _imports.bind(before)
        random.setstate(chance)


def _live(definitions: dict[str, ActorDefinition], types: Any, err: type[BaseException], number: int) -> None:
    made = make_world(
        definitions,
        types,
        err,
        version=__version__,
        activate=random.seed,
        finish=_sandbox.finish_output,
    )
    # A new object of the class for every call, as in the component.
    config = types.InitConfig(f"rehearsing/{number}", "rehearsing", '{"n":1}', False, "{}")
    made().init(config)
    context = '{"subject":"ada","roles":["admin"],"session":"","trace":"","causation_id":"","deadline_ms":1}'
    for operation, payload in _CALLS:
        for kind in (types.MessageKind(0), types.MessageKind(1)):
            envelope = types.Envelope(f"m-{number}", kind, operation, payload, "other", context)
            try:
                answer = made().handle(envelope)
            except err:
                continue
            if answer is not None:
                json.loads(answer)
    saved = made().get_state()
    again = make_world(definitions, types, err, version=__version__)
    again().set_state(config, saved)
    made().terminate("normal")
