"""Arguments that a handler declared secret: swapped for phantom tokens at the edge, before anybody keeps the message.

Which those are is in the JSON Schemas that a component's `describe` gives for its handlers, as strings of the format
`secret`, however deep.  A payload is changed only there, character by character: what else it holds stays as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final

from ..errors import InvalidArgument
from ..scope import Address, Scope

_FORMAT: Final = "secret"
_CHOICES: Final = ("anyOf", "oneOf", "allOf")
_DEPTH_MAX: Final = 64
_BLANKS: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


@dataclass(slots=True, eq=False)
class Shape:
    """Where in a value something is secret.  A value that may hold itself has a shape that does.

    Attributes:
        secret: the value itself.
        members: by name.
        others: any other member.
        places: the items, by place.
        items: any other item.
        options: it may be any of these as well.
    """

    secret: bool = False
    members: dict[str, Shape] = field(default_factory=dict)
    others: Shape | None = None
    places: list[Shape | None] = field(default_factory=list)
    items: Shape | None = None
    options: list[Shape] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing in it is secret."""
        return not (self.secret or self.members or self.others or any(self.places) or self.items or self.options)

    def all(self) -> list[Shape]:
        """The shape and its options, and theirs."""
        found: list[Shape] = []
        open_ = [self]
        while open_:
            shape = open_.pop()
            if not any(shape is each for each in found):
                found.append(shape)
                open_ += shape.options
        return found


class Veil:
    """Knows the actor types with secret arguments.

    Args:
        swap: gives the token for a value on its way to an actor.

    Attributes:
        declared: the shapes of messages by operation ("*" for any other), by type; only of types that have some.
    """

    def __init__(self, swap: Callable[[Address, str], str]) -> None:
        self._swap = swap
        self.declared: dict[tuple[Scope, str], dict[str, Shape]] = {}

    def declare(self, scope: Scope, actor_type: str, handlers: Mapping[str, Any]) -> None:
        """Make the handlers of a type known, in place of those of its version before.

        Args:
            handlers: as `describe` gives them.
        """
        shapes = {}
        for operation, handler in handlers.items():
            parameters = handler.get("parameters") if isinstance(handler, Mapping) else None
            shape = read_schema(parameters) if isinstance(parameters, Mapping) else None
            if shape is not None:
                shapes[operation] = shape
        self.declared.pop((scope, actor_type), None)
        if shapes:
            # A handler without secrets is not to be taken for one that nobody named.
            plain = {operation: Shape() for operation in handlers if operation not in shapes}
            self.declared[scope, actor_type] = {**plain, **shapes}

    def forget(self, scope: Scope, actor_type: str) -> None:
        """The type is gone."""
        self.declared.pop((scope, actor_type), None)

    def drawn(self, address: Address, op: str, payload: str) -> str:
        """A message's arguments as its receiver may see them.

        Raises:
            InvalidArgument: they are not JSON, or what is to be secret is no text that can be.
            LimitExceeded, Unavailable: the vault is full, or the disk refuses.
        """
        shapes = self.declared.get((address.scope, address.type))
        if shapes is None:
            return payload
        shape = shapes.get(op) or shapes.get("*")
        if shape is None or not payload or shape.empty:
            return payload
        return _Splice(payload, lambda value: self._swap(address, value)).whole(shape)


class _Splice:
    """Walks through JSON text along a shape, and notes what is to stand where."""

    def __init__(self, text: str, swap: Callable[[str], str]) -> None:
        self._text = text
        self._swap = swap
        self._changes: list[tuple[int, int, str]] = []

    def whole(self, shape: Shape) -> str:
        """The text with its secrets swapped."""
        try:
            end = self._blanks(self._value(self._blanks(0), [shape], ""))
            if end != len(self._text):
                raise ValueError
        except (ValueError, IndexError, StopIteration, RecursionError):
            # Without the decoder's words: they may show a piece of what is secret.
            raise InvalidArgument("the arguments are not JSON") from None
        pieces, at = [], 0
        for first, end, token in self._changes:
            pieces += [self._text[at:first], json.dumps(token)]
            at = end
        return "".join([*pieces, self._text[at:]])

    def _value(self, at: int, inner: Iterable[Shape | None], path: str) -> int:
        """Where the value at `at` ends."""
        shapes = [each for shape in inner if shape is not None for each in shape.all()]
        if self._text[at] == "{" and any(shape.members or shape.others for shape in shapes):
            return self._object(at, shapes, path)
        if self._text[at] == "[" and any(shape.places or shape.items for shape in shapes):
            return self._array(at, shapes, path)
        value, end = _DECODER.raw_decode(self._text, at)
        if value is not None and any(shape.secret for shape in shapes):
            if not isinstance(value, str):
                raise InvalidArgument(f"{path} is a secret: it is to be a string")
            token = self._swap(value)
            if token != value:
                self._changes.append((at, end, token))
        return int(end)

    def _object(self, at: int, shapes: list[Shape], path: str) -> int:
        text = self._text
        at = self._blanks(at + 1)
        while text[at] != "}":
            if text[at] != '"':
                raise ValueError
            name, at = scanstring(text, at + 1)
            at = self._blanks(at)
            if text[at] != ":":
                raise ValueError
            inner = [shape.members.get(name, shape.others) for shape in shapes]
            at = self._blanks(self._value(self._blanks(at + 1), inner, f"{path}.{name}" if path else name))
            at = self._next(at, "}")
        return at + 1

    def _array(self, at: int, shapes: list[Shape], path: str) -> int:
        at = self._blanks(at + 1)
        index = 0
        while self._text[at] != "]":
            inner = [shape.places[index] if index < len(shape.places) else shape.items for shape in shapes]
            at = self._blanks(self._value(at, inner, f"{path}[{index}]"))
            at = self._next(at, "]")
            index += 1
        return at + 1

    def _next(self, at: int, end: str) -> int:
        """Where the next member begins, or the end is."""
        if self._text[at] == ",":
            at = self._blanks(at + 1)
            if self._text[at] == end:
                raise ValueError
        elif self._text[at] != end:
            raise ValueError
        return at

    def _blanks(self, at: int) -> int:
        match = _BLANKS.match(self._text, at)
        assert match is not None, "blanks may be none"
        return match.end()


# -- schemas -----------------------------------------------------------------------------------------------


def read_schema(schema: Mapping[str, Any]) -> Shape | None:
    """Where values of a JSON Schema hold secrets; None if nowhere."""
    definitions = schema.get("$defs")
    reader = _Reader(definitions if isinstance(definitions, Mapping) else {})
    shape = reader.read(schema)
    return shape if reader.found else None


class _Reader:
    """Reads one schema.

    Attributes:
        found: something in it is secret.
    """

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._named: dict[str, Shape] = {}
        self.found = False

    def read(self, schema: object, depth: int = 0) -> Shape | None:
        """The shape of what a schema describes; None if nothing of it is secret."""
        # Nobody writes such a schema, but anybody may deploy one; and what it hides, it hides from itself.
        if not isinstance(schema, Mapping) or depth > _DEPTH_MAX:
            return None
        shape = Shape()
        self._into(shape, schema, depth + 1)
        return None if shape.empty else shape

    def _into(self, shape: Shape, schema: Mapping[str, Any], depth: int) -> None:
        if schema.get("format") == _FORMAT:
            shape.secret = self.found = True
        for name, member in _mapping(schema.get("properties")).items():
            if (inner := self.read(member, depth)) is not None:
                shape.members[name] = inner
        shape.others = self.read(schema.get("additionalProperties"), depth)
        shape.places = [self.read(item, depth) for item in _list(schema.get("prefixItems"))]
        shape.items = self.read(schema.get("items"), depth)
        options = [self.read(option, depth) for each in _CHOICES for option in _list(schema.get(each))]
        if isinstance(reference := schema.get("$ref"), str):
            options.append(self._definition(reference.removeprefix("#/$defs/"), depth))
        shape.options = [option for option in options if option is not None]

    def _definition(self, name: str, depth: int) -> Shape:
        shape = self._named.get(name)
        if shape is None:
            # Entered before it is read, because it may hold itself.
            shape = self._named[name] = Shape()
            self._into(shape, _mapping(self._definitions.get(name)), depth)
        return shape


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
