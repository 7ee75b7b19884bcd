"""What a service link is and what passes through one: the seam between links, credentials and the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..scope import Scope


@dataclass(frozen=True, slots=True)
class Slot:
    """A place of a request into which the node writes a value on its way out.

    Attributes:
        place: "header" or "query".
        name: of the header or parameter.
        template: text in which `${secret:NAME}` stands for a secret.
    """

    place: str
    name: str
    template: str


@dataclass(frozen=True, slots=True)
class PhantomSlots:
    """Where a phantom token is swapped for what it stands for; anywhere else it leaves as it is.

    Attributes:
        headers: lower-case names.
        query: names of parameters.
        body: whether the body is searched.
    """

    headers: frozenset[str] = frozenset({"authorization", "x-api-key"})
    query: frozenset[str] = frozenset()
    body: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request, canonical and allowed, as it is about to leave.

    Attributes:
        url: absolute; its host is the link's.
        headers: by lower-case name.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)


class Redactor(Protocol):
    """Replaces the secrets that one request carried wherever they come back.

    Attributes:
        found: the names of the secrets (or the phantom tokens) that came back.
    """

    found: set[str]

    def text(self, text: str) -> str:
        """`text` without the secrets: raw, base64, hexadecimal, URL-encoded or JSON-escaped."""

    def data(self, data: bytes) -> bytes:
        """As `text`, for what is no text."""

    def stream(self) -> StreamRedactor:
        """For a body that comes in pieces: also finds what is split between two."""


class StreamRedactor(Protocol):
    """One body under way."""

    def feed(self, piece: str) -> str:
        """What can be given on by now; it keeps back what may be the beginning of a secret."""

    def finish(self) -> str:
        """What was kept back."""


class Credentials(Protocol):
    """Puts secrets into requests."""

    def inject(
        self, scope: Scope, link: str, slots: tuple[Slot, ...], phantoms: PhantomSlots, out: Outgoing
    ) -> tuple[Outgoing, Redactor]:
        """The request with its secrets, which is never kept, logged or shown; and what finds them in the answer.

        Raises:
            NotFound: a secret that the link names is not set; the message says how to set it.
            PermissionDenied: the request holds a phantom token that is not for this link.
        """


@dataclass(frozen=True, slots=True)
class Call:
    """On whose behalf a request is made.

    Attributes:
        actor: as it is called inside its namespace.
        caller: the subject of the token that started the work, "" when there is none.
        idempotency_key: the same whenever the same step of a durable actor runs again; "" without one.
        deadline_ns: on the monotonic clock, when nobody waits for the answer any more; 0 when there is none.
        message_id: of the message that the actor handles.
        trace: W3C `traceparent`, "" without one.
    """

    scope: Scope
    actor: str
    caller: str = ""
    idempotency_key: str = ""
    deadline_ns: int = 0
    message_id: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What an actor wants to send.

    Attributes:
        path: below the link's base URL, with its query.
        timeout_ms: for everything, the answer's last byte included; 0 takes the link's, which is also the most.
    """

    link: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer, without the secrets that its request carried.

    Attributes:
        headers: by lower-case name.
        body: decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
