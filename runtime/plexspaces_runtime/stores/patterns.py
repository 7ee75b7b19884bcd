"""Tuples and the patterns that match them: JSON text in, values that can be compared, hashed and indexed out.

A field is kept in a form whose equality is JSON's: a number is a number however it is written (`1` equals `1.0`), a
boolean is none (`true` is not `1`, which Python thinks it is), and objects have no order.  How a number was written
counts for its type alone: `int` is one without fraction and exponent.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ..errors import InvalidArgument

FIELDS_MAX: Final = 64
# Well below what hashing and comparing, which recurse in C, can stand.
DEPTH_MAX: Final = 64


class Truth(Enum):
    """A boolean field: not Python's, because those equal 0 and 1."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    TRUE = True
    FALSE = False


# None, Truth, int, float, str; a tuple for an array, a frozenset of pairs for an object.
Field = Any
Fields = tuple[Field, ...]


class _BadNumber(ValueError):
    """A number that is JSON by its grammar and none by its size."""


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _BadNumber(f"the number {text[:40]} is too large")
    return number


def _constant(name: str) -> Any:
    raise _BadNumber(f"{name} is not JSON")


# Not orjson: it rounds whole numbers of more than 64 bits, and two of them may be rounded to the same.
_decode: Final = json.JSONDecoder(parse_float=_float, parse_constant=_constant).decode


def _array(what: str, text: str) -> list[Any]:
    try:
        values = _decode(text)
    except (ValueError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidArgument(f"the {what} is not JSON text: {reason}") from None
    if not isinstance(values, list):
        raise InvalidArgument(f"a {what} is a JSON array of 1 to {FIELDS_MAX} fields, not {_called(values)}")
    if not 1 <= len(values) <= FIELDS_MAX:
        raise InvalidArgument(f"a {what} has 1 to {FIELDS_MAX} fields, not {len(values)}")
    return values


def parse_tuple(text: str) -> Fields:
    """The fields of a tuple.

    Args:
        text: a JSON array of 1 to 64 fields.

    Raises:
        InvalidArgument: it is none, or a field nests more than 64 deep.
    """
    return tuple(map(_field, _array("tuple", text)))


def _field(value: Any, depth: int = 0) -> Field:
    kind = value.__class__
    if kind is str or kind is int or kind is float or value is None:
        return value
    if kind is bool:
        return Truth.TRUE if value else Truth.FALSE
    if depth >= DEPTH_MAX:
        raise InvalidArgument(f"a field nests more than {DEPTH_MAX} deep")
    if kind is list:
        return tuple([_field(item, depth + 1) for item in value])
    return frozenset([(name, _field(item, depth + 1)) for name, item in value.items()])


_TYPES: Final[dict[str, Callable[[Field], bool]]] = {
    "int": lambda field: field.__class__ is int,
    "float": lambda field: field.__class__ is float,
    "str": lambda field: field.__class__ is str,
    "bool": lambda field: field.__class__ is Truth,
    "list": lambda field: field.__class__ is tuple,
    "dict": lambda field: field.__class__ is frozenset,
    "null": lambda field: field is None,
}

_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

Test = Callable[[Field], bool]


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a tuple has to be.

    Attributes:
        arity: how many fields it has.
        bound: positions that hold exactly this.
        tests: positions that pass this.
    """

    arity: int
    bound: tuple[tuple[int, Field], ...]
    tests: tuple[tuple[int, Test], ...]

    def matches(self, fields: Fields) -> bool:
        """Whether a tuple of any arity is such a one."""
        return len(fields) == self.arity and self.fits(fields)

    def fits(self, fields: Fields) -> bool:
        """The same, for one that has as many fields."""
        for position, wanted in self.bound:
            if fields[position] != wanted:
                return False
        return all(test(fields[position]) for position, test in self.tests)


def parse_pattern(text: str) -> Pattern:
    """A pattern.

    Args:
        text: a JSON array as long as the tuples it matches.  `null` matches anything; `{"$type": name}` by type, one
            of int, float, str, bool, list, dict, null; `{"$pred": [op, value]}` by comparison, one of < <= > >= (two
            numbers or two texts; anything else does not match), != and prefix (texts).  Anything else matches its
            equal; inside of such a value `null` is only `null`.

    Raises:
        InvalidArgument: it is no pattern.
    """
    values = _array("pattern", text)
    bound: list[tuple[int, Field]] = []
    tests: list[tuple[int, Test]] = []
    for position, value in enumerate(values):
        if value is None:
            continue
        if isinstance(value, dict) and any(name.startswith("$") for name in value):
            tests.append((position, _test(position, value)))
        else:
            bound.append((position, _field(value)))
    return Pattern(len(values), tuple(bound), tuple(tests))


def _test(position: int, value: dict[str, Any]) -> Test:
    """What a field that is written as an object with a `$` asks for."""
    match value:
        case {"$type": name, **rest} if not rest:
            test = _TYPES.get(name) if isinstance(name, str) else None
            if test is None:
                raise InvalidArgument(
                    f"field {position} of the pattern: {_shown(name)} is not a type; use {', '.join(_TYPES)}"
                )
            return test
        case {"$pred": [name, against], **rest} if not rest:
            return _predicate(position, name, against)
        case _:
            raise InvalidArgument(
                f"field {position} of the pattern: an object with a '$' is "
                '{"$type": name} or {"$pred": [operator, value]}, nothing else'
            )


def _predicate(position: int, name: Any, against: Any) -> Test:
    if name == "!=":
        other = _field(against)
        return lambda field: bool(field != other)
    if name == "prefix":
        if not isinstance(against, str):
            raise InvalidArgument(f"field {position} of the pattern: prefix takes a text, not {_called(against)}")
        return lambda field: field.__class__ is str and field.startswith(against)
    order = _ORDERS.get(name) if isinstance(name, str) else None
    if order is None:
        raise InvalidArgument(
            f"field {position} of the pattern: {_shown(name)} is not a comparison; "
            f"use {', '.join(_ORDERS)}, != or prefix"
        )
    if isinstance(against, str):
        return lambda field: field.__class__ is str and order(field, against)
    if isinstance(against, int | float) and not isinstance(against, bool):
        return lambda field: (field.__class__ is int or field.__class__ is float) and order(field, against)
    raise InvalidArgument(f"field {position} of the pattern: {name} takes a number or a text, not {_called(against)}")


_CALLED: Final[dict[type[Any], str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "an array",
    dict: "an object",
}


def _called(value: Any) -> str:
    return _CALLED[type(value)]


def _shown(value: Any) -> str:
    return repr(value)[:40]
