"""A guest that hands every function of the SDK's `host` what nobody should, and says what came of it."""

import inspect
import math
import types

from plexspaces import actor, handler, host, state

DEEP: list = []
for _ in range(400):
    DEEP = [DEEP]
CIRCLE: list = []
CIRCLE.append(CIRCLE)


class Odd:
    """Converts to nothing, and says so loudly."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __int__ = __index__ = __bool__ = __len__ = __iter__ = __hash__ = __str__


NASTY = {
    "none": None,
    "true": True,
    "minus": -1,
    "huge": 10**30,
    "u64": 2**64,
    "s64": -(2**63) - 1,
    "nan": math.nan,
    "infinite": math.inf,
    "empty": "",
    "surrogate": "\ud800",
    "zero": "a\x00b",
    "long": "x" * 2_000_000,
    "up": "../../x",
    "tenant": "victim/default/actor",
    "bytes": b"\xff\x00",
    "deep": DEEP,
    "circle": CIRCLE,
    "nan inside": {"a": [math.nan, {"b": math.inf}]},
    "surrogate inside": {"\udfff": ["\ud800"]},
    "keys": {1: 2, None: 3, (1,): 4},
    "set": {1, 2},
    "object": object(),
    "odd": Odd(),
    "class": Odd,
    "function": len,
    "module": math,
}


def _functions() -> dict:
    """Everything of the SDK's that can be called on `host`, one level of names down."""
    found = {}
    for name in dir(host):
        value = getattr(host, name)
        if name.startswith("_") or isinstance(value, types.ModuleType) or inspect.isclass(value):
            continue
        if inspect.isfunction(value):
            found[name] = value
        elif type(value).__module__.startswith("plexspaces"):
            inner = {each: getattr(value, each) for each in dir(value) if not each.startswith("_")}
            found |= {f"{name}.{each}": function for each, function in inner.items() if callable(function)}
    return found


def _arity(function: object) -> int:
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in plain for each in inspect.signature(function).parameters.values())


@actor
class Attacker:
    """Calls, and reports: by the caller's own rules, nothing else may happen."""

    calls: int = state(default=0)

    @handler("names")
    def names(self) -> dict:
        """The functions with the number of their parameters, and what there is to hand them."""
        functions = {name: _arity(function) for name, function in sorted(_functions().items())}
        return {"functions": functions, "nasty": sorted(NASTY)}

    @handler("attack")
    def attack(self, function: str, nasty: list[str]) -> dict:
        self.calls += 1
        try:
            value = _functions()[function](*(NASTY[name] for name in nasty))
            if inspect.isgenerator(value):
                next(value, None)
        except Exception as error:
            return {"error": type(error).__name__, "code": getattr(error, "code", "")}
        return {"value": type(value).__name__}

    @handler("again")
    def again(self) -> int:
        return self.calls
