"""The test node's vault: phantom tokens in the place of secret arguments, and what they stand for on the way out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ._testing_base import contract_error

if TYPE_CHECKING:
    from ._testing_http import Links, TestRequest
    from .definition import Handler

_TOKEN: Final = re.compile(r"[A-Za-z0-9_.~-]{8,256}")
_RUN: Final = re.compile(r"[A-Za-z0-9_.~-]{8,}")
_VALUE_BYTES_MIN: Final = 8
_VALUE_BYTES_MAX: Final = 64 << 10
_LINKS_MAX: Final = 64
# Where a link swaps tokens that says nothing else.
_HEADERS: Final = ("authorization", "x-api-key")


@dataclass(frozen=True, slots=True)
class _Credential:
    value: str
    links: tuple[str, ...]


class Credentials:
    """All phantom tokens of a test node.

    Args:
        links: the ways out there are.
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self._known: dict[str, _Credential] = {}
        # By the handler's identity, with the handler, so that no other gets it; None where nothing is secret.
        self._schemas: dict[int, tuple[Handler, dict[str, Any] | None]] = {}

    def drawn(self, actor_id: str, handler: Handler | None, payload: str) -> str:
        """A message's arguments as its receiver may see them."""
        if handler is None:
            return payload
        _, schema = self._schemas.get(id(handler)) or self._read(handler)
        if schema is None:
            return payload
        try:
            arguments = json.loads(payload)
        except ValueError:
            raise contract_error("invalid-argument", "the arguments are not JSON") from None
        return json.dumps(self._swapped(actor_id, schema, schema.get("$defs", {}), arguments, ""))

    def register(self, token: str, credential: str, links: Iterable[str]) -> str:
        """See `host.register_credential`."""
        names = tuple(dict.fromkeys(links))
        for name in names:
            if not self._links.known(name):
                raise contract_error("not-found", f"there is no link {name!r}; make one with TestNode.http")
        if token and not _TOKEN.fullmatch(token):
            raise contract_error(
                "invalid-argument", "a phantom token has 8 to 256 letters, digits, '_', '.', '~' or '-'"
            )
        if not 1 <= len(names) <= _LINKS_MAX:
            raise contract_error("invalid-argument", f"a credential is for 1 to {_LINKS_MAX} links")
        known = self._known.get(credential)
        value = credential if known is None else known.value
        _check_value(value, "a credential")
        if token == value:
            raise contract_error("invalid-argument", "the phantom token is the credential itself")
        token = token or _made("registered", str(len(self._known)), value)
        self._known[token] = _Credential(value, names)
        return token

    def forget(self, token: str) -> bool:
        """See `host.forget_credential`."""
        return self._known.pop(token, None) is not None

    def injected(self, request: TestRequest) -> TestRequest:
        """A request as the outside world gets it: with what its tokens stand for."""

        def value(match: re.Match[str]) -> str:
            known = self._known.get(match[0])
            if known is None:
                return match[0]
            if request.link not in known.links:
                raise contract_error(
                    "permission-denied", f"the phantom token {match[0]!r} is not for link {request.link!r}"
                )
            return known.value

        headers = {name: _RUN.sub(value, text) if name in _HEADERS else text for name, text in request.headers.items()}
        return replace(request, headers=headers)

    def _read(self, handler: Handler) -> tuple[Handler, dict[str, Any] | None]:
        schema = handler.parameters.schema()
        known = self._schemas[id(handler)] = handler, schema if _is_secret_anywhere(schema) else None
        return known

    def _veil(self, actor_id: str, value: str, path: str) -> str:
        if value in self._known:
            return value
        _check_value(value, path)
        token = _made(actor_id, value)
        self._known.setdefault(token, _Credential(value, ()))
        return token

    def _swapped(self, actor_id: str, schema: Any, definitions: Mapping[str, Any], value: Any, path: str) -> Any:
        if not isinstance(schema, dict):
            return value
        if isinstance(reference := schema.get("$ref"), str):
            schema = definitions.get(reference.removeprefix("#/$defs/"), {})
        for option in schema.get("anyOf", ()):
            value = self._swapped(actor_id, option, definitions, value, path)
        if schema.get("format") == "secret" and value is not None:
            if not isinstance(value, str):
                raise contract_error("invalid-argument", f"{path} is a secret: it is to be a string")
            return self._veil(actor_id, value, path)
        if isinstance(value, dict):
            members, others = schema.get("properties", {}), schema.get("additionalProperties")
            return {
                name: self._swapped(
                    actor_id, members.get(name, others), definitions, item, f"{path}.{name}" if path else name
                )
                for name, item in value.items()
            }
        if isinstance(value, list):
            places, others = schema.get("prefixItems", ()), schema.get("items")
            return [
                self._swapped(actor_id, places[at] if at < len(places) else others, definitions, item, f"{path}[{at}]")
                for at, item in enumerate(value)
            ]
        return value


def _is_secret_anywhere(schema: Any) -> bool:
    if isinstance(schema, dict):
        return schema.get("format") == "secret" or any(map(_is_secret_anywhere, schema.values()))
    return isinstance(schema, list) and any(map(_is_secret_anywhere, schema))


def _check_value(value: str, what: str) -> None:
    size = len(value.encode("utf-8", "surrogatepass"))
    if size < _VALUE_BYTES_MIN:
        raise contract_error("invalid-argument", f"{what} has {size} bytes, and is to have {_VALUE_BYTES_MIN} at least")
    if size > _VALUE_BYTES_MAX:
        raise contract_error(
            "limit-exceeded", f"{what} has {size} bytes, more than {_VALUE_BYTES_MAX}", limit="secret_bytes_max"
        )


def _made(*about: str) -> str:
    return "phantom-" + hashlib.sha256("\0".join(about).encode("utf-8", "surrogatepass")).hexdigest()[:40]
