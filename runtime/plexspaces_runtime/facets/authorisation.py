"""Lets through only messages of callers who have a role that the actor, or the operation, asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..actors.envelope import Envelope
from ..actors.facets import Facet
from ..errors import InvalidArgument, PermissionDenied
from .kind import FacetContext, FacetType
from .settings import Settings

_NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class AuthorisationConfig:
    """Attributes:
    roles: one of these is needed; none: nobody is asked.
    operations: what is needed instead, for these operations.
    """

    roles: frozenset[str]
    operations: Mapping[str, frozenset[str]]


class Authorisation(Facet):
    """The doorkeeper of one actor."""

    __slots__ = ("_config", "_refused", "_text")

    def __init__(self, address_text: str, config: AuthorisationConfig) -> None:
        self._text = address_text
        self._config = config
        self._refused = 0

    def admit(self, envelope: Envelope) -> None:
        needed = self._config.operations.get(envelope.op, self._config.roles)
        if not needed:
            return
        has = envelope.caller.roles if envelope.caller is not None else _NONE
        if needed & has:
            return
        self._refused += 1
        roles = sorted(needed)
        raise PermissionDenied(
            f"operation {envelope.op!r} of actor {self._text!r} needs the role {' or '.join(map(repr, roles))}",
            operation=envelope.op,
            roles=roles,
        )

    def report(self) -> dict[str, Any]:
        return {"refused": self._refused}


class AuthorisationType(FacetType[AuthorisationConfig]):
    """See the module."""

    priority = 80

    def parse(self, config: Mapping[str, Any]) -> AuthorisationConfig:
        settings = Settings("authorisation", config, ("roles", "operations"))
        parsed = AuthorisationConfig(settings.names("roles"), settings.names_by_name("operations"))
        if not parsed.roles and not any(parsed.operations.values()):
            raise InvalidArgument(
                "facet 'authorisation' asks for no role: "
                'set roles = ["admin"] or operations = { delete = ["admin"] }',
                facet="authorisation",
                key="roles",
            )
        return parsed

    def build(self, context: FacetContext, config: AuthorisationConfig) -> Authorisation:
        return Authorisation(context.address.text, config)
