"""Between the messages of proto/plexspaces/v1 and the requests and answers of the HTTP API.  Pure.

There is one application behind both doors, and it reads requests: what an RPC asks for is written as one, field by
field, by the route that it names.  So whatever is checked, counted, limited or recorded of a request is so of an RPC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson
from google.protobuf.message import Message

from ...errors import InvalidArgument, PayloadTooLarge
from ..routes import Route
from .jsontext import elements, members
from .table import Rpc

_PARAMETER: Final = re.compile(r"{(\w+)}")
_JSON_SUFFIX: Final = "_json"
# About as much as an address may have.
_QUERY_CHARS_MAX: Final = 8 * 1024
# What an address says when a request leaves the field empty.
_DEFAULTS: Final = {"namespace": "default", "key": "default"}


@dataclass(frozen=True, slots=True)
class Encoder:
    """Writes the requests of one RPC.

    Attributes:
        rest: the last parameter of the path may hold `/`.
        query: names of the query's parameters.
        text: see `Rpc`.
        arguments_in_query: `text` is an object whose members become the query's.
    """

    template: str
    rest: str
    path: frozenset[str]
    query: frozenset[str]
    text: str
    arguments_in_query: bool

    @classmethod
    def of(cls, rpc: Rpc, route: Route) -> Encoder:
        names = _PARAMETER.findall(route.path)
        return cls(
            template=route.path,
            rest=names[-1] if route.rest else "",
            path=frozenset(names),
            query=frozenset(each.name for each in route.parameters if each.where == "query"),
            text=rpc.text,
            arguments_in_query=bool(rpc.text) and route.body is None,
        )

    def encode(self, message: Message, tenant: str, more: Mapping[str, str]) -> tuple[bytes, bytes, bytes]:
        """Path, query and body of the request that a message means.

        Args:
            tenant: the token's.
            more: parameters of the query that are no fields.

        Raises:
            InvalidArgument: a field of JSON text holds none.
        """
        path: dict[str, str] = {**_DEFAULTS, "tenant": tenant}
        query: dict[str, str] = dict(more)
        body: list[bytes] = []
        text = ""
        for field, value in message.ListFields():
            name = field.name
            if name.endswith(_JSON_SUFFIX):
                _check_json(name, value)
            if name == self.text:
                text = value
            elif name in self.path:
                path[name] = value
            elif name in self.query:
                query[name] = value if isinstance(value, str) else orjson.dumps(value).decode()
            elif name.endswith(_JSON_SUFFIX):
                body.append(b'"%b":%b' % (name.removesuffix(_JSON_SUFFIX).encode(), value.encode()))
            else:
                body.append(b'"%b":%b' % (name.encode(), orjson.dumps(value)))
        if self.arguments_in_query:
            query |= _arguments(self.text, text)
            text = ""
        return self._path(path), urlencode(query).encode(), _body(self.text, text, body)

    def _path(self, values: Mapping[str, str]) -> bytes:
        def written(found: re.Match[str]) -> str:
            name = found[1]
            value = values.get(name, "")
            # Streams are called `/a/b`, and the route has the first `/` already.
            return quote(value.removeprefix("/")) if name == self.rest else quote(value, safe="")

        return _PARAMETER.sub(written, self.template).encode()


def _check_json(name: str, text: str) -> None:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the field {name!r} is not JSON: {error}", field=name) from None


def _arguments(name: str, text: str) -> dict[str, str]:
    """The members of a JSON object, as texts, for the query of an address."""
    if len(text) > _QUERY_CHARS_MAX:
        raise PayloadTooLarge(
            f"the field {name!r} may have {_QUERY_CHARS_MAX} characters here", field=name, chars_max=_QUERY_CHARS_MAX
        )
    return members(_object(name, text)) if text else {}


def _object(name: str, text: str) -> str:
    text = text.strip(" \t\r\n")
    if not text.startswith("{"):
        raise InvalidArgument(f"the field {name!r} is to be a JSON object", field=name)
    return text


def _body(name: str, text: str, body: list[bytes]) -> bytes:
    if not body:
        return text.encode()
    # The text is known to be JSON, so that what is put before its last brace is read as members, and as the last of
    # their names: what the message's own fields say counts.
    inside = _object(name, text)[1:-1].encode() if text else b""
    return b"{" + b",".join([inside, *body] if inside.strip() else body) + b"}"


def fill(message: Message, text: str) -> None:
    """Put the members of a JSON object into the fields of their names.

    A member `x` goes into a field `x_json` as it is written, where there is one; null, and what the message has no
    field for, goes nowhere.
    """
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in members(text).items():
        if name + _JSON_SUFFIX in fields:
            setattr(message, name + _JSON_SUFFIX, value)
        elif name in fields and value != "null":
            _set(message, name, value)


def _set(message: Message, name: str, value: str) -> None:
    present: Any = getattr(message, name)
    if isinstance(present, MutableMapping):
        present.update(orjson.loads(value))
    elif hasattr(present, "add"):
        for each in elements(value):
            fill(present.add(), each)
    elif hasattr(present, "extend"):
        present.extend(orjson.loads(value))
    else:
        setattr(message, name, orjson.loads(value))
