"""Annotations turned into checks: JSON in, typed Python out, and the JSON Schema that says the same.

Each `Shape` stands for one annotation.  `read` converts a value that `json.loads` gave, or notes why it cannot;
`schema` describes exactly the values that `read` takes.  Shapes are made once, when a class is defined.
"""

from __future__ import annotations

import base64
import binascii
import collections.abc as abc
import dataclasses
import datetime as dt
import decimal
import enum
import math
import re
import types
import typing
import uuid
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Final, Literal, Union, get_args, get_origin

from ._secret import Secret

MISSING: Final = object()

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a value does not fit.  `path` is where: `order.lines[2].amount`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path} {self.message}"


class UnusableAnnotation(Exception):
    """The annotation has no JSON form."""


def json_type(value: object) -> str:
    """The name of a value's type in the words of JSON."""
    if value is None:
        return "null"
    for kind, name in _JSON_NAMES:
        if isinstance(value, kind):
            return name
    return type(value).__name__


_JSON_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    ((list, tuple), "array"),
    (dict, "object"),
)


class Shape:
    """What one annotation takes.

    Attributes:
        text: for messages: `int`, `list of str`.
        exact: a value of exactly this type needs neither check nor conversion; `None` when all need one.
        anything: no value needs a check.
    """

    text: str = ""
    exact: type | None = None
    anything: ClassVar[bool] = False

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """The typed value; or a note in `problems`, and whatever."""
        raise NotImplementedError

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """The JSON Schema (2020-12); definitions that may recur go into `defs`."""
        raise NotImplementedError

    def _refuse(self, value: object, path: str, problems: list[Problem]) -> None:
        problems.append(Problem(path, f"must be {self.text}, not {json_type(value)}"))


class AnyShape(Shape):
    text = "anything"
    anything = True

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {}


class Plain(Shape):
    """A JSON value that is taken as it is."""

    def __init__(self, exact: type, text: str, schema: Schema) -> None:
        self.exact = exact
        self.text = text
        self._schema = schema

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is not self.exact:
            self._refuse(value, path, problems)
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return dict(self._schema)


class IntShape(Shape):
    text = "integer"
    exact = int

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is int:
            return value
        # JSON knows one kind of number, and JSON Schema calls 1.0 an integer.
        if type(value) is float and value.is_integer():
            return int(value)
        self._refuse(value, path, problems)
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": "integer"}


class FloatShape(Shape):
    text = "number"
    exact = float

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is float:
            return value
        if type(value) is int:
            try:
                return float(value)
            except OverflowError:
                problems.append(Problem(path, "is too large for a float"))
                return value
        self._refuse(value, path, problems)
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": "number"}


class TextShape(Shape):
    """A string that stands for something else."""

    def __init__(self, text: str, parse: abc.Callable[[str], Any], schema: Schema) -> None:
        self.text = text
        self._parse = parse
        self._schema = schema

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is not str:
            self._refuse(value, path, problems)
            return value
        try:
            return self._parse(value)
        except (ValueError, TypeError, binascii.Error) as error:
            problems.append(Problem(path, f"must be {self.text}: {error}"))
            return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return dict(self._schema)


_DECIMAL_TEXT = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class DecimalShape(Shape):
    text = "a decimal number, as a string (exact) or a number"

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is int or (type(value) is float and math.isfinite(value)):
            return decimal.Decimal(str(value))
        if type(value) is str and _DECIMAL_TEXT.fullmatch(value):
            try:
                return decimal.Decimal(value)
            except decimal.InvalidOperation:
                pass
        self._refuse(value, path, problems)
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^(?:{_DECIMAL_TEXT.pattern})$"}]}


class TimedeltaShape(Shape):
    text = "a number of seconds"

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is int or type(value) is float:
            try:
                return dt.timedelta(seconds=value)
            except (OverflowError, ValueError) as error:
                problems.append(Problem(path, f"must be {self.text}: {error}"))
                return value
        self._refuse(value, path, problems)
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": "number", "description": "seconds"}


class ListShape(Shape):
    """An array of any length, read into a list, tuple, set or frozenset."""

    def __init__(self, item: Shape, build: type) -> None:
        self.item = item
        self.build = build
        self.text = "array" if item.anything else f"array of {item.text}"
        if item.anything and build is list:
            self.exact = list

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is not list:
            self._refuse(value, path, problems)
            return value
        read = self.item.read
        items = [read(item, f"{path}[{index}]", problems) for index, item in enumerate(value)]
        if self.build is list:
            return items
        try:
            return self.build(items)
        except TypeError:
            problems.append(Problem(path, "holds arrays or objects, which cannot be members of a set"))
            return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": "array", "items": self.item.schema(defs)}


class TupleShape(Shape):
    def __init__(self, items: tuple[Shape, ...]) -> None:
        self.items = items
        self.text = f"array of {len(items)} items"

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is not list:
            self._refuse(value, path, problems)
            return value
        if len(value) != len(self.items):
            problems.append(Problem(path, f"must be {self.text}, not of {len(value)}"))
            return value
        return tuple(
            shape.read(item, f"{path}[{index}]", problems)
            for index, (shape, item) in enumerate(zip(self.items, value, strict=True))
        )

    def schema(self, defs: dict[str, Schema]) -> Schema:
        count = len(self.items)
        schema: Schema = {"type": "array", "minItems": count, "maxItems": count}
        if count:
            schema["prefixItems"] = [item.schema(defs) for item in self.items]
        return schema


class KeyShape(Shape):
    """A whole number that is written as the name of a member."""

    text = "a whole number"

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is str and re.fullmatch(r"-?[0-9]+", value):
            return int(value)
        problems.append(Problem(path, f"must be {self.text}"))
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": "string", "pattern": "^-?[0-9]+$"}


class DictShape(Shape):
    def __init__(self, key: Shape, value: Shape) -> None:
        self.key = key
        self.value = value
        self.text = "object" if value.anything else f"object of {value.text}"
        if value.anything and (key.anything or key.exact is str):
            self.exact = dict

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is not dict:
            self._refuse(value, path, problems)
            return value
        read_key, read = self.key.read, self.value.read
        return {
            read_key(name, f"the name {name!r} in {path}", problems): read(item, f"{path}.{name}", problems)
            for name, item in value.items()
        }

    def schema(self, defs: dict[str, Schema]) -> Schema:
        schema: Schema = {"type": "object"}
        if not self.value.anything:
            schema["additionalProperties"] = self.value.schema(defs)
        if not self.key.anything and self.key.exact is not str:
            schema["propertyNames"] = self.key.schema(defs)
        return schema


def _same(value: object, choice: object) -> bool:
    """Equal, and of one type: `True` is not 1."""
    return type(value) is type(choice) and value == choice


class LiteralShape(Shape):
    def __init__(self, choices: tuple[Any, ...]) -> None:
        self.choices = choices
        self.text = _one_of([repr(choice) for choice in choices])

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if not any(_same(value, choice) for choice in self.choices):
            problems.append(Problem(path, f"must be {self.text}, not {_short(value)}"))
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"enum": list(self.choices)}


_SCALARS: Final = (str, int, float, bool, type(None))


def enum_text(member: enum.Enum) -> Any:
    """How a member is written in JSON: by value if all values of its class are scalars, else by name."""
    scalar = all(type(other.value) in _SCALARS for other in type(member))
    return member.value if scalar else member.name


class EnumShape(Shape):
    def __init__(self, cls: type[enum.Enum]) -> None:
        self._members = [(enum_text(member), member) for member in cls]
        self.text = _one_of([repr(text) for text, _ in self._members])

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        for text, member in self._members:
            if _same(value, text):
                return member
        problems.append(Problem(path, f"must be {self.text}, not {_short(value)}"))
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"enum": [text for text, _ in self._members]}


class UnionShape(Shape):
    def __init__(self, options: tuple[Shape, ...]) -> None:
        self.options = options
        self.text = " or ".join(dict.fromkeys(option.text for option in options))

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        # An option that takes the value as it is goes first: in `int | float`, 1.0 stays a float.
        for option in self.options:
            if option.exact is type(value):
                return value
        attempts: list[list[Problem]] = []
        for option in self.options:
            found: list[Problem] = []
            result = option.read(value, path, found)
            if not found:
                return result
            attempts.append(found)
        # What is wrong inside says more than "none of these" where only one option could have been meant.
        inside = [found for found in attempts if any(problem.path != path for problem in found)]
        if len(inside) == 1:
            problems.extend(inside[0])
        else:
            self._refuse(value, path, problems)
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"anyOf": [option.schema(defs) for option in self.options]}


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a structure."""

    name: str
    shape: Shape
    required: bool
    default: Any = MISSING
    description: str = ""


class StructShape(Shape):
    """A dataclass or a TypedDict.  Fields are filled in later, so that it may hold itself."""

    def __init__(self, cls: type, *, keyword_init: bool) -> None:
        self.cls = cls
        self.text = f"{cls.__name__} (object)"
        self._is_dataclass = keyword_init
        self.fields: tuple[Field, ...] = ()
        self._by_name: dict[str, Field] = {}

    def define(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        self._by_name = {field.name: field for field in fields}

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is not dict:
            self._refuse(value, path, problems)
            return value
        before = len(problems)
        members: dict[str, Any] = {}
        for name, item in value.items():
            field = self._by_name.get(name)
            if field is None:
                problems.append(Problem(f"{path}.{name}", f"is not a field{suggest(name, self._by_name)}"))
            else:
                members[name] = field.shape.read(item, f"{path}.{name}", problems)
        problems.extend(
            Problem(f"{path}.{field.name}", "is missing")
            for field in self.fields
            if field.required and field.name not in value
        )
        if not self._is_dataclass or len(problems) > before:
            return members
        try:
            return self.cls(**members)
        except (ValueError, TypeError) as error:  # the class's own checks, in __post_init__
            problems.append(Problem(path, f"is not a valid {self.cls.__name__}: {error}"))
            return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        name = self.cls.__name__
        if name not in defs:
            defs[name] = {}  # claimed before its fields are asked, because they may hold it
            defs[name] = object_schema(self.fields, defs, description=_summary(self.cls))
        return {"$ref": f"#/$defs/{name}"}


def object_schema(fields: tuple[Field, ...], defs: dict[str, Schema], *, description: str = "") -> Schema:
    """The schema of an object with exactly these members."""
    properties: dict[str, Schema] = {}
    for field in fields:
        schema = field.shape.schema(defs)
        if field.description:
            schema["description"] = field.description
        if field.default is not MISSING:
            schema["default"] = field.default
        properties[field.name] = schema
    result: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [field.name for field in fields if field.required]
    if required:
        result["required"] = required
    if description:
        result["description"] = description
    return result


def suggest(name: str, known: abc.Iterable[str]) -> str:
    """`; did you mean 'amount'?`, or nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _one_of(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else "one of " + ", ".join(texts)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _summary(cls: type) -> str:
    doc = cls.__dict__.get("__doc__") or ""
    # dataclasses write a signature where there is no docstring.
    if dataclasses.is_dataclass(cls) and doc.startswith(f"{cls.__name__}("):
        return ""
    return doc.strip().partition("\n")[0]


def _base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _date(text: str) -> dt.date:
    if len(text) > 10:
        raise ValueError("a date has no time of day")
    return dt.date.fromisoformat(text)


_ANY: Final = AnyShape()
_PLAIN: Final[dict[Any, Shape]] = {
    Any: _ANY,
    object: _ANY,
    int: IntShape(),
    float: FloatShape(),
    str: Plain(str, "string", {"type": "string"}),
    Secret: Plain(str, "secret string", {"type": "string", "format": "secret", "writeOnly": True}),
    bool: Plain(bool, "boolean", {"type": "boolean"}),
    None: Plain(type(None), "null", {"type": "null"}),
    type(None): Plain(type(None), "null", {"type": "null"}),
    list: ListShape(_ANY, list),
    tuple: ListShape(_ANY, tuple),
    set: ListShape(_ANY, set),
    frozenset: ListShape(_ANY, frozenset),
    dict: DictShape(_ANY, _ANY),
    abc.Mapping: DictShape(_ANY, _ANY),
    abc.MutableMapping: DictShape(_ANY, _ANY),
    abc.Sequence: ListShape(_ANY, list),
    bytes: TextShape("base64 text", _base64, {"type": "string", "contentEncoding": "base64"}),
    dt.datetime: TextShape(
        "an ISO 8601 date and time", dt.datetime.fromisoformat, {"type": "string", "format": "date-time"}
    ),
    dt.date: TextShape("an ISO 8601 date", _date, {"type": "string", "format": "date"}),
    dt.time: TextShape("an ISO 8601 time of day", dt.time.fromisoformat, {"type": "string", "format": "time"}),
    dt.timedelta: TimedeltaShape(),
    decimal.Decimal: DecimalShape(),
    uuid.UUID: TextShape("a UUID", uuid.UUID, {"type": "string", "format": "uuid"}),
}
_SEQUENCES: Final[dict[Any, type]] = {
    list: list,
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Iterable: list,
    abc.Collection: list,
    set: set,
    abc.Set: frozenset,
    abc.MutableSet: set,
    frozenset: frozenset,
}
_MAPPINGS: Final = (dict, abc.Mapping, abc.MutableMapping)


class Shapes:
    """Makes shapes, each structure once, so that structures may hold one another."""

    def __init__(self) -> None:
        self._structs: dict[type, StructShape] = {}

    def of(self, annotation: Any) -> Shape:
        """The shape of an annotation that has been resolved (no strings).

        Raises:
            UnusableAnnotation: it has no JSON form.
        """
        try:
            plain = _PLAIN.get(annotation)
        except TypeError:  # unhashable: Literal[[...]] and the like
            plain = None
        if plain is not None:
            return plain
        if isinstance(annotation, typing.NewType):
            return self.of(annotation.__supertype__)
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is typing.Annotated:
            return self.of(arguments[0])
        if origin in (Union, types.UnionType):
            return UnionShape(tuple(self.of(argument) for argument in arguments))
        if origin is Literal:
            for choice in arguments:
                if type(choice) not in _SCALARS:
                    raise UnusableAnnotation(f"Literal value {choice!r} has no JSON form")
            return LiteralShape(arguments)
        if origin is tuple:
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return ListShape(self.of(arguments[0]), tuple)
            return TupleShape(tuple(self.of(argument) for argument in arguments))
        if origin in _SEQUENCES:
            return ListShape(self.of(arguments[0]), _SEQUENCES[origin])
        if origin in _MAPPINGS:
            return DictShape(self._key(arguments[0]), self.of(arguments[1]))
        value = getattr(annotation, "__value__", None)  # `type X = ...`
        if value is not None and type(annotation).__name__ == "TypeAliasType":
            return self.of(value)
        if isinstance(annotation, type):
            if issubclass(annotation, enum.Enum):
                return EnumShape(annotation)
            if typing.is_typeddict(annotation) or dataclasses.is_dataclass(annotation):
                return self._struct(annotation)
        raise UnusableAnnotation(f"{_name(annotation)} has no JSON form")

    def _key(self, annotation: Any) -> Shape:
        shape = _KEY if annotation is int else self.of(annotation)
        if isinstance(shape, (AnyShape, KeyShape, TextShape, EnumShape, LiteralShape)) or shape.exact is str:
            return shape
        raise UnusableAnnotation(f"{_name(annotation)} cannot be the key of a JSON object")

    def _struct(self, cls: type) -> StructShape:
        known = self._structs.get(cls)
        if known is not None:
            return known
        is_dataclass = dataclasses.is_dataclass(cls)
        shape = self._structs[cls] = StructShape(cls, keyword_init=is_dataclass)
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except Exception as error:  # noqa: BLE001  resolving runs the annotation's own text
            raise UnusableAnnotation(f"the annotations of {cls.__name__} cannot be resolved: {error}") from None
        fields = []
        if is_dataclass:
            for field in dataclasses.fields(cls):
                if not field.init:
                    continue
                required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
                default = MISSING if field.default is dataclasses.MISSING else field.default
                fields.append(self.field(field.name, hints[field.name], required=required, default=default))
        else:
            needed = cls.__required_keys__  # type: ignore[attr-defined]
            for name, hint in hints.items():
                # Where annotations are strings, __required_keys__ has not seen what is written inside them.
                required = name in needed
                while get_origin(hint) in (typing.Required, typing.NotRequired):
                    required = get_origin(hint) is typing.Required
                    hint = get_args(hint)[0]
                fields.append(self.field(name, hint, required=required))
        shape.define(tuple(fields))
        return shape

    def field(
        self, name: str, annotation: Any, *, required: bool, default: Any = MISSING, description: str = ""
    ) -> Field:
        """A member or parameter; text in `Annotated[T, "text"]` describes it."""
        if get_origin(annotation) is typing.Annotated:
            description = next((extra for extra in get_args(annotation)[1:] if type(extra) is str), description)
        shape = self.of(annotation)
        # `tool: dict = None` says Optional in all but name, and much published code says it so.
        if default is None and not shape.anything:
            accepts_none: list[Problem] = []
            shape.read(None, name, accepts_none)
            if accepts_none:
                shape = UnionShape((shape, _PLAIN[None]))
        return Field(name, shape, required, _json_default(default), description)


_KEY: Final = KeyShape()


def _json_default(value: Any) -> Any:
    if type(value) in _SCALARS and not (type(value) is float and not math.isfinite(value)):
        return value
    if isinstance(value, enum.Enum):
        return enum_text(value)
    return MISSING


def _name(annotation: Any) -> str:
    return getattr(annotation, "__qualname__", None) or str(annotation)


def to_json(value: Any) -> Any:
    """What `json` cannot write by itself, in the form in which `Shape.read` takes it back.

    Raises:
        TypeError: there is no such form.
    """
    if isinstance(value, enum.Enum):
        return enum_text(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, abc.Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__qualname__} has no JSON form")
