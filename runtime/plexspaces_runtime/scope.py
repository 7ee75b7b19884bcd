"""Who may see what: the scope of every stored byte, message and name, and the caller behind a message.

Only `api/` builds a `Scope`, from a verified token; everybody else takes the one that rides in the envelope.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .errors import InvalidArgument

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?", re.IGNORECASE)
# Keys come from users (session ids, e-mail addresses): anything printable but the path separator.
_KEY = re.compile(r"[^\x00-\x20/\x7f]{1,256}")


def check_name(what: str, name: str) -> str:
    """Return `name` if it may name a tenant, namespace or actor type.

    Raises:
        InvalidArgument: it is empty, longer than 64 characters or holds other than letters, digits, `_`, `.`, `-`.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{what} {name[:80]!r} is not a name: use 1 to 64 letters, digits, '_', '.' or '-', "
            "beginning and ending with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Scope:
    """A tenant's namespace."""

    tenant: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who started the work, as the token said it; travels down every message that the work causes."""

    subject: str
    roles: frozenset[str] = field(default_factory=frozenset)
    session: str = ""
    scopes: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Address:
    """An actor's identity.  It outlives crashes, restarts and versions."""

    scope: Scope
    type: str
    key: str = "default"

    @property
    def text(self) -> str:
        """How the actor is called inside its namespace: `type`, or `type/key`."""
        return self.type if self.key == "default" else f"{self.type}/{self.key}"

    def __str__(self) -> str:
        return f"{self.scope.tenant}/{self.scope.namespace}/{self.text}"

    @classmethod
    def parse(cls, scope: Scope, text: str) -> Address:
        """Read `type` or `type/key`.

        Raises:
            InvalidArgument: the text is neither.
        """
        type_, slash, key = text.partition("/")
        check_name("actor type", type_)
        if not slash:
            return cls(scope, type_)
        if not _KEY.fullmatch(key):
            raise InvalidArgument(
                f"key {key[:80]!r} of actor {type_!r} is not usable: "
                "1 to 256 printable characters without '/' or spaces"
            )
        return cls(scope, type_, key)
