"""Secrets put into a request on its way out: those that its link names, and those that phantom tokens stand for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from urllib.parse import quote, unquote_plus

from ..errors import InvalidArgument, PermissionDenied
from ..events import CredentialRefused, EventBus, SecretInRequest
from ..scope import Scope
from .model import Outgoing, PhantomSlots, Slot
from .scan import Mark, Redaction, TooSuspicious
from .vault import TOKEN, Vault

SECRET: Final = re.compile(r"\$\{secret:([^}]*)\}")
_RUN: Final = re.compile(r"[A-Za-z0-9_.~-]{8,}")
# RFC 9110, 5.5: what a header's value may hold; beyond ASCII nobody agrees what it means.
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
# Each is looked for in all of the answer.
_VALUES_MAX: Final = 32


def secrets_of(slots: tuple[Slot, ...]) -> tuple[str, ...]:
    """The names of the secrets that a link puts into its requests."""
    return tuple(dict.fromkeys(name for slot in slots for name in SECRET.findall(slot.template)))


class VaultCredentials:
    """The `Credentials` of a node: its vault's."""

    def __init__(self, vault: Vault, events: EventBus) -> None:
        self._vault = vault
        self._events = events

    def inject(
        self, scope: Scope, link: str, slots: tuple[Slot, ...], phantoms: PhantomSlots, out: Outgoing
    ) -> tuple[Outgoing, Redaction]:
        """See `Credentials`.

        Raises:
            NotFound: a secret that the link names is not set; the message says how to set it.
            PermissionDenied: the request holds a phantom token that is not for this link, or a secret itself.
            InvalidArgument: a secret cannot stand where the link wants it, or the request holds too many of them.
        """
        self._refuse_values(scope, link, out)
        injection = _Injection(self._vault, self._events, scope, link)
        headers = dict(out.headers)
        for name in phantoms.headers & headers.keys():
            headers[name] = _header(name, injection.swapped(headers[name]))
        url = out.url if not phantoms.query else _swapped_query(out.url, phantoms.query, injection)
        body = out.body if not phantoms.body else _swapped_body(out, injection)
        for slot in slots:
            value = injection.filled(slot.template)
            if slot.place == "header":
                headers[slot.name.lower()] = _header(slot.name, value)
            else:
                url = _with_parameter(url, slot.name, value)
        return replace(out, url=url, headers=headers, body=body), Redaction(injection.used)

    def _refuse_values(self, scope: Scope, link: str, out: Outgoing) -> None:
        texts = [out.url, *(f"{name}: {value}" for name, value in out.headers.items())]
        try:
            found = self._vault.watch(scope.tenant).found_in("\n".join(texts).encode("utf-8", "replace"), out.body)
        except TooSuspicious:
            self._events.emit(SecretInRequest(scope, link, ()))
            raise PermissionDenied(
                "the request resembles secrets in so many places that it cannot be let out"
            ) from None
        if found:
            self._events.emit(SecretInRequest(scope, link, tuple(sorted(found))))
            # Which one is for the operator: a guest that tries values must not learn names by it.
            raise PermissionDenied(
                "the request holds a secret value itself, and secrets leave the node only where it puts them: use a "
                "phantom token, or let the link's auth name the secret"
            )


class _Injection:
    """One request's.

    Attributes:
        used: the values it holds by now.
    """

    def __init__(self, vault: Vault, events: EventBus, scope: Scope, link: str) -> None:
        self._vault = vault
        self._events = events
        self._scope = scope
        self._link = link
        self.used: dict[str, Mark] = {}

    def filled(self, template: str) -> str:
        """A link's template with its secrets."""

        def value(match: re.Match[str]) -> str:
            name = match[1]
            secret = self._vault.reveal(self._scope.tenant, name)
            self._use(secret, Mark(name, f"[secret {name}]"))
            return secret

        return SECRET.sub(value, template)

    def swapped(self, text: str, write: Callable[[str], str] = str) -> str:
        """A text with what its phantom tokens stand for.

        Args:
            write: how a value is written there.
        """

        def value(match: re.Match[str]) -> str:
            token = match[0]
            known = self._vault.stands_for(self._scope, token) if TOKEN.fullmatch(token) else None
            if known is None:
                return token
            if self._link not in known.links:
                self._events.emit(CredentialRefused(self._scope, self._link, token, known.links))
                allowed = ", ".join(map(repr, known.links))
                raise PermissionDenied(
                    f"the phantom token {token!r} is not for link {self._link!r}: "
                    + (f"it was registered for {allowed}" if allowed else "it was not registered for any yet")
                    + "; see host.register_credential",
                    link=self._link,
                    links=list(known.links),
                )
            self._use(known.value, Mark(token, token))
            return write(known.value)

        return _RUN.sub(value, text)

    def _use(self, value: str, mark: Mark) -> None:
        self.used.setdefault(value, mark)
        if len(self.used) > _VALUES_MAX:
            raise InvalidArgument(f"a request may hold {_VALUES_MAX} secrets at most")


def _header(name: str, value: str) -> str:
    if not _HEADER_VALUE.fullmatch(value):
        raise InvalidArgument(
            f"the secret for header {name!r} holds a line break or other characters that a header cannot: set another"
        )
    return value


def _swapped_query(url: str, names: frozenset[str], injection: _Injection) -> str:
    before, mark, query = url.partition("?")
    pieces = []
    for piece in query.split("&") if mark else ():
        name, equals, value = piece.partition("=")
        plain = unquote_plus(value)
        if unquote_plus(name) in names and (swapped := injection.swapped(plain)) != plain:
            piece = name + equals + quote(swapped, safe="")
        pieces.append(piece)
    return before + mark + "&".join(pieces)


def _swapped_body(out: Outgoing, injection: _Injection) -> bytes:
    kind = out.headers.get("content-type", "").partition(";")[0].strip().lower()
    write: Callable[[str], str] = str
    if kind == "application/json" or kind.endswith("+json"):
        write = _json_text
    elif kind == "application/x-www-form-urlencoded":
        write = _form_text
    try:
        text = out.body.decode()
    except UnicodeDecodeError:
        # A token is text, and there is none in what is no text.
        return out.body
    return injection.swapped(text, write).encode()


def _json_text(value: str) -> str:
    return json.dumps(value)[1:-1]


def _form_text(value: str) -> str:
    return quote(value, safe="")


def _with_parameter(url: str, name: str, value: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{quote(name, safe='')}={quote(value, safe='')}"
