"""A sandbox without wasm: components are text, guests are generators, and every place where one waits can be its last.

`guests` are scripted guests (tests/unit/scripted.py), which assert that an instance is never entered twice at once and
never after it trapped (invariants W1 and W2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson

from plexspaces_runtime.actors.guest import Export, Failure
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import InvalidComponent
from plexspaces_runtime.wasm.wit import load as load_wit
from tests.unit.scripted import BURN, ScriptedGuest, StillTicker

# A role's behaviour: message by message, what it does; it yields host calls and evaluates to the reply.
Handler = Callable[["Memory", str, Any, str], Generator[Any, Any, Any]]


@dataclass
class Memory:
    """What one instance knows."""

    actor_id: str
    role: str
    args: Any
    values: dict[str, Any]
    facets: Any = None


class Crash(Exception):
    """A handler raises this to fail as Python code does."""


class Refusal(Exception):
    """A handler raises this to refuse its message."""


class SimulatedSandbox:
    """Stands in for `wasm.engine.Sandbox`.

    Args:
        roles: what the components of this world can be.
        at_wait: called at every place where a guest waits or computes, with its memory; True ends it there.
    """

    def __init__(self, roles: Mapping[str, Handler], at_wait: Callable[[Memory, str], bool]) -> None:
        self.package = load_wit()
        self.ticker = StillTicker()
        self.roles = roles
        self.at_wait = at_wait
        self.living: set[_Guest] = set()
        self.made = 0

    async def load(self, wasm: bytes | Path) -> Any:
        """A "component": JSON text with the names of its roles."""
        content = wasm if isinstance(wasm, bytes) else wasm.read_bytes()
        try:
            roles = orjson.loads(content)["roles"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise InvalidComponent("this is no component") from None
        loaded = SimpleNamespace(
            hash=hashlib.sha256(content).hexdigest(), size_bytes=len(content), audit=SimpleNamespace(imports=())
        )
        return SimpleNamespace(loaded=loaded, roles=roles)

    def instance(self, program: Any, _limits: Limits) -> _Guest:
        self.made += 1
        guest = _Guest(self, program.roles)
        self.living.add(guest)
        return guest

    def start(self) -> None: ...

    async def close(self) -> None:
        assert not self.living, f"{len(self.living)} instances were never closed"


class _Guest(ScriptedGuest):
    def __init__(self, sandbox: SimulatedSandbox, roles: list[str]) -> None:
        super().__init__(
            {
                Export.DESCRIBE: self._describe,
                Export.INIT: self._init,
                Export.SET_STATE: self._set_state,
                Export.GET_STATE: self._get_state,
                Export.HANDLE: self._handle,
                Export.TERMINATE: self._terminate,
            }
        )
        self._sandbox = sandbox
        self._roles = roles
        self._memory = Memory("", "", {}, {})

    def close(self) -> None:
        super().close()
        self._sandbox.living.discard(self)

    def _describe(self) -> Generator[Any, Any, Any]:
        yield BURN
        roles = {role: {"handlers": {}, "behaviour": "GenServer"} for role in self._roles}
        return orjson.dumps({"roles": roles}).decode()

    def _remember(self, config: tuple[Any, ...]) -> None:
        actor_id, role, args, _restored, facets = config
        self._memory.actor_id, self._memory.role = actor_id, role
        self._memory.args, self._memory.facets = orjson.loads(args), orjson.loads(facets)

    def _init(self, config: tuple[Any, ...]) -> Generator[Any, Any, Any]:
        self._remember(config)
        return (yield from self._watched("init", {}, ""))

    def _set_state(self, config: tuple[Any, ...], state: str) -> Generator[Any, Any, Any]:
        self._remember(config)
        yield BURN
        self._memory.values = orjson.loads(state)

    def _get_state(self) -> Generator[Any, Any, Any]:
        yield BURN
        return orjson.dumps(self._memory.values).decode()

    def _handle(self, _id: str, _kind: str, op: str, payload: str, sender: str, _ctx: str) -> Generator[Any, Any, Any]:
        return (yield from self._watched(op, orjson.loads(payload), sender))

    def _terminate(self, _reason: str) -> Generator[Any, Any, Any]:
        return (yield from self._watched("terminate", {}, ""))

    def _watched(self, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        """Run a behaviour; at each wait the world may decide that it ends here."""
        behaviour = self._sandbox.roles[self._memory.role](self._memory, op, arguments, sender)
        answer: Any = None
        try:
            while True:
                wanted = behaviour.send(answer)
                if self._sandbox.at_wait(self._memory, op):
                    raise Crash("the world ended it")
                answer = yield wanted
        except StopIteration as done:
            return None if done.value is None else orjson.dumps(done.value).decode()
        except Crash as crash:
            return Failure(True, "Crash", f"Crash: {crash}", "{}", "")
        except Refusal as refusal:
            return Failure(False, "refused", str(refusal), "{}", "")
        finally:
            behaviour.close()
