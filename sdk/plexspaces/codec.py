"""State as text that keeps types: JSON where JSON suffices, tags where it does not.

JSON has no tuple, set, bytes, date or exact decimal, turns the keys of objects into strings, and most of its readers
confuse 1 with 1.0.  What JSON says exactly is written as it is, so that an operator can read it; everything else is
an object with the single member `$type`-like tag below.  An object that could be mistaken for a tag is escaped.

    {"$tuple": [1, 2]}   {"$datetime": "2026-01-31T12:00:00+00:00"}   {"$dict": [[1, "one"]]}
    {"$object": ["app:Order", {"id": 7}]}   {"$enum": ["app:Colour", "RED"]}   {"$escape": {"$tuple": "mine"}}
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import sys
import uuid
from collections.abc import Callable
from typing import Any, Final

# Far above what anybody nests on purpose, far below what the sandbox's stack bears.
DEPTH_MAX: Final = 200


class UnsupportedType(TypeError):
    """A value that cannot be kept; the text names where it is."""


class Corrupt(ValueError):
    """Text that `dumps` has not written, or a class that is gone."""


def dumps(value: Any, path: str = "state") -> str:
    """The text of a value.

    Raises:
        UnsupportedType: something in it cannot be kept.
    """
    return json.dumps(encode(value, path), ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def loads(text: str) -> Any:
    """The value of a text.

    Raises:
        Corrupt: the text is not one of ours, or names a class that is not there.
    """
    try:
        return decode(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, Corrupt):
            raise
        raise Corrupt(f"stored state cannot be read: {error}") from None


def encode(value: Any, path: str = "state", depth: int = 0) -> Any:
    """A value as plain JSON data.

    Args:
        path: how the value is called in an error.
        depth: how deep inside another one it is.

    Raises:
        UnsupportedType: with the path of what cannot be kept.
    """
    if depth > DEPTH_MAX:
        raise UnsupportedType(f"{path[:200]}... nests more than {DEPTH_MAX} deep, or holds itself")
    kind = type(value)
    if value is None or kind is bool or kind is int or kind is str:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return [encode(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if kind is dict:
        return _encode_dict(value, path, depth)
    tag = _TAGS.get(kind)
    if tag is not None:
        name, write, _ = tag
        return {name: write(value, path, depth)}
    if isinstance(value, enum.Enum):
        # A combination of flags has a name made up by Python, or none; its number says the same.
        return {"$enum": [_class_name(kind, path), value.name if value.name in kind.__members__ else value.value]}
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            "$object": [
                _class_name(kind, path),
                {name: encode(item, f"{path}.{name}", depth + 1) for name, item in fields.items()},
            ]
        }
    raise UnsupportedType(
        f"{path} is a {kind.__module__}.{kind.__qualname__}, which cannot be kept: "
        "use plain data, a dataclass or an Enum, or leave it out of state()"
    )


def _encode_dict(value: dict[Any, Any], path: str, depth: int) -> Any:
    if all(type(key) is str for key in value):
        members = {key: encode(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
        if len(value) == 1 and next(iter(value)).startswith("$"):
            return {"$escape": members}
        return members
    return {
        "$dict": [
            [encode(key, f"{path} key {key!r}", depth + 1), encode(item, f"{path}[{key!r}]", depth + 1)]
            for key, item in value.items()
        ]
    }


def decode(value: Any) -> Any:
    """Plain JSON data that `encode` gave, as the value it was.

    Raises:
        Corrupt: it was not given by `encode`, or names a class that is not there.
    """
    kind = type(value)
    if kind is list:
        return [decode(item) for item in value]
    if kind is not dict:
        return value
    if len(value) == 1:
        ((name, content),) = value.items()
        if name.startswith("$"):
            read = _READERS.get(name)
            if read is None:
                raise Corrupt(f"stored state holds the unknown tag {name!r}")
            try:
                return read(content)
            except Corrupt:
                raise
            except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
                raise Corrupt(f"stored state holds a faulty {name!r}: {error}") from None
    return {key: decode(item) for key, item in value.items()}


# -- tags --------------------------------------------------------------------------------------------------


def _items(value: Any, path: str, depth: int) -> list[Any]:
    return [encode(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]


def _members(value: Any, path: str, depth: int) -> list[Any]:
    """A set's members in an order that does not depend on the hash seed, so that equal states are equal texts."""
    encoded = [encode(item, f"{path} member {item!r}", depth + 1) for item in value]
    return sorted(encoded, key=lambda item: json.dumps(item, sort_keys=True))


def _write_base64(value: Any, path: str, depth: int) -> str:
    return base64.b64encode(value).decode("ascii")


def _write_str(value: Any, path: str, depth: int) -> str:
    return str(value)


def _write_iso(value: Any, path: str, depth: int) -> Any:
    if type(value) is not dt.date and value.tzinfo is not None and type(value.tzinfo) is not dt.timezone:
        raise UnsupportedType(
            f"{path} has the time zone {value.tzinfo!r}, which cannot be kept: use datetime.timezone, such as UTC"
        )
    name = value.tzinfo.tzname(None) if type(value) is not dt.date and value.tzinfo is not None else None
    text = value.isoformat()
    fold = getattr(value, "fold", 0)
    named = name is not None and value.tzinfo != dt.UTC and not name.startswith("UTC")
    return text if not fold and not named else [text, fold, encode(value.tzinfo, path)]


def _write_timedelta(value: dt.timedelta, path: str, depth: int) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _write_timezone(value: dt.timezone, path: str, depth: int) -> list[Any]:
    offset = value.utcoffset(None)
    name = value.tzname(None)
    parts: list[Any] = [offset.days, offset.seconds, offset.microseconds]
    return parts if name == dt.timezone(offset).tzname(None) else [*parts, name]


def _read_iso(cls: Any) -> Callable[[Any], Any]:
    def read(content: Any) -> Any:
        if isinstance(content, str):
            return cls.fromisoformat(content)
        text, fold, zone = content
        value = cls.fromisoformat(text)
        return value.replace(fold=fold, tzinfo=decode(zone))

    return read


def _read_timezone(content: list[Any]) -> dt.timezone:
    offset = dt.timedelta(*content[:3])
    if len(content) == 4:
        return dt.timezone(offset, content[3])
    return dt.timezone(offset) if offset else dt.UTC


def _read_escape(content: Any) -> dict[str, Any]:
    return {key: decode(item) for key, item in content.items()}


def _read_object(content: list[Any]) -> Any:
    name, members = content
    cls: type = _class(name)
    if not dataclasses.is_dataclass(cls):
        raise Corrupt(f"{name} is no longer a dataclass")
    value: Any = object.__new__(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    for key, field in known.items():
        if key in members:
            item = decode(members[key])
        elif field.default is not dataclasses.MISSING:
            item = field.default
        elif field.default_factory is not dataclasses.MISSING:
            item = field.default_factory()
        else:
            raise Corrupt(f"stored {name} lacks {key!r}, which has no default: migrate the state, or give it one")
        # Frozen dataclasses refuse setattr; __init__ would run checks on data that passed them once.
        object.__setattr__(value, key, item)
    return value


def _read_enum(content: list[Any]) -> Any:
    name, member = content
    cls = _class(name)
    if not (isinstance(cls, type) and issubclass(cls, enum.Enum)):
        raise Corrupt(f"{name} is no longer an Enum")
    return cls[member] if isinstance(member, str) else cls(member)


def _class_name(cls: type, path: str) -> str:
    if "<locals>" in cls.__qualname__:
        raise UnsupportedType(f"{path} is a {cls.__qualname__}, a class inside a function: move it to the module")
    return f"{cls.__module__}:{cls.__qualname__}"


def _class(name: str) -> Any:
    """A class by name, among the modules that are there.  Nothing is imported on behalf of stored text."""
    module_name, _, qualname = name.partition(":")
    target: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        target = getattr(target, part, None)
    if not isinstance(target, type):
        raise Corrupt(f"stored state names the class {name}, which is not there: keep it, or migrate the state")
    return target


_Write = Callable[[Any, str, int], Any]
_TAGS: Final[dict[type, tuple[str, _Write, Callable[[Any], Any]]]] = {
    tuple: ("$tuple", _items, lambda content: tuple(decode(item) for item in content)),
    set: ("$set", _members, lambda content: {decode(item) for item in content}),
    frozenset: ("$frozenset", _members, lambda content: frozenset(decode(item) for item in content)),
    bytes: ("$bytes", _write_base64, lambda content: base64.b64decode(content, validate=True)),
    bytearray: ("$bytearray", _write_base64, lambda content: bytearray(base64.b64decode(content, validate=True))),
    dt.datetime: ("$datetime", _write_iso, _read_iso(dt.datetime)),
    dt.date: ("$date", _write_iso, _read_iso(dt.date)),
    dt.time: ("$time", _write_iso, _read_iso(dt.time)),
    dt.timedelta: ("$timedelta", _write_timedelta, lambda content: dt.timedelta(*content)),
    dt.timezone: ("$timezone", _write_timezone, _read_timezone),
    decimal.Decimal: ("$decimal", _write_str, decimal.Decimal),
    uuid.UUID: ("$uuid", _write_str, uuid.UUID),
}
_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    **{name: read for name, _, read in _TAGS.values()},
    "$float": float,
    "$dict": lambda content: {decode(key): decode(item) for key, item in content},
    "$escape": _read_escape,
    "$object": _read_object,
    "$enum": _read_enum,
}
