"""Arithmetic by a parser of its own: what is not arithmetic is not evaluated but refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from plexspaces import actor, handler, host, init_handler

_TOKEN = re.compile(
    r"\s*(?:(\d+(?:\.\d*)?(?:[eE][-+]?\d{1,4})?|\.\d+(?:[eE][-+]?\d{1,4})?)|([a-zA-Z_]\w*)|(\*\*|//|[-+*/%^(),]))"
)
_CHARS_MAX = 1_000
_DEPTH_MAX = 60
_DIGITS_MAX = 4_000
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "sqrt": math.sqrt,
    "abs": abs,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "min": min,
    "max": max,
}


class Wrong(ValueError):
    """It is no arithmetic, or has no value."""


def evaluate(text: str) -> int | float:
    """The value of an expression: `+ - * / // % ** ^`, brackets, some functions, `pi`, `e`, `tau`.

    Whole numbers stay exact, up to some thousand digits.

    Raises:
        Wrong: the text says why.
    """
    if len(text) > _CHARS_MAX:
        raise Wrong(f"an expression has at most {_CHARS_MAX} characters")
    parser = _Parser(_tokens(text))
    value = parser.sum(0)
    if parser.token:
        raise Wrong(f"{parser.token!r} is not expected there")
    return value


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise Wrong(f"{text[at:].strip()[:20]!r} is no arithmetic")
        tokens.append(found[0].strip())
        at = found.end()
    if not tokens:
        raise Wrong("the expression is empty")
    return tokens


class _Parser:
    """By recursive descent; the depth is bounded because the text is a stranger's."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [*tokens, ""]
        self._at = 0

    @property
    def token(self) -> str:
        return self._tokens[self._at]

    def _take(self) -> str:
        token = self.token
        self._at += 1
        return token

    def _expect(self, wanted: str) -> None:
        if self.token != wanted:
            raise Wrong(f"{wanted!r} is missing" + (f" before {self.token!r}" if self.token else " at the end"))
        self._at += 1

    def sum(self, depth: int) -> int | float:
        value = self._product(depth)
        while self.token in ("+", "-"):
            value = _apply(self._take(), value, self._product(depth))
        return value

    def _product(self, depth: int) -> int | float:
        value = self._signed(depth)
        while self.token in ("*", "/", "//", "%"):
            value = _apply(self._take(), value, self._signed(depth))
        return value

    def _signed(self, depth: int) -> int | float:
        if depth > _DEPTH_MAX:
            raise Wrong("the expression is nested too deeply")
        if self.token in ("+", "-"):
            negative = self._take() == "-"
            value = self._signed(depth + 1)
            return -value if negative else value
        return self._power(depth)

    def _power(self, depth: int) -> int | float:
        value = self._atom(depth)
        if self.token in ("**", "^"):
            self._take()
            return _apply("**", value, self._signed(depth + 1))
        return value

    def _atom(self, depth: int) -> int | float:
        token = self._take()
        if token == "(":
            value = self.sum(depth + 1)
            self._expect(")")
            return value
        if token and (token[0].isdigit() or token[0] == "."):
            return _checked(float(token) if re.search(r"[.eE]", token) else int(token))
        if token in _FUNCTIONS:
            return self._call(token, depth)
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        raise Wrong(f"{token!r} is not known" if token else "the expression is not finished")

    def _call(self, name: str, depth: int) -> int | float:
        self._expect("(")
        arguments = [self.sum(depth + 1)]
        while self.token == ",":
            self._take()
            arguments.append(self.sum(depth + 1))
        self._expect(")")
        try:
            return _checked(_FUNCTIONS[name](*arguments))
        except (TypeError, ValueError, OverflowError):
            raise Wrong(f"{name}({', '.join(map(str, arguments))[:80]}) has no value") from None


def _apply(operator: str, left: int | float, right: int | float) -> int | float:
    try:
        match operator:
            case "+":
                return _checked(left + right)
            case "-":
                return _checked(left - right)
            case "*":
                return _checked(left * right)
            case "/":
                return _checked(left / right)
            case "//":
                return _checked(left // right)
            case "%":
                return _checked(left % right)
        # Before it is computed: a power of powers is larger than any memory.
        if left not in (0, 1, -1) and abs(right) * math.log10(max(abs(left), 10)) > _DIGITS_MAX:
            raise Wrong("the result is too large")
        return _checked(left**right)
    except ZeroDivisionError:
        raise Wrong("division by zero") from None
    except OverflowError:
        raise Wrong("the result is too large") from None


def _checked(value: int | float) -> int | float:
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise Wrong("the result is no number")
    if isinstance(value, int) and value.bit_length() > _DIGITS_MAX * 4:
        raise Wrong("the result is too large")
    return value


@actor
class CalculatorToolActor:
    """The tool `calculator`."""

    @init_handler
    def on_init(self, config: dict) -> None:
        host.process_groups.join("svc:tool:calculator")

    @handler("execute")
    def execute(self, expression: str) -> dict:
        """The value of an expression."""
        try:
            return {"result": evaluate(expression)}
        except Wrong as wrong:
            return {"error": str(wrong)}
