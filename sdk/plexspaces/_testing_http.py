"""The world behind the test node's service links: requests are kept, and the test answers them."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ._testing_base import NS_PER_MS, Waiter, contract_error, over, size_of
from .errors import HostError

if TYPE_CHECKING:
    from .testing import TestNode, _Cell

# The node's defaults, of a link that says nothing else.
_TIMEOUT_S: Final = 120.0
_REQUEST_BYTES_MAX: Final = 1 << 20
_RESPONSE_BYTES_MAX: Final = 8 << 20
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


@dataclass(frozen=True, slots=True)
class TestRequest:
    """A request as the outside world gets it.

    Attributes:
        actor_id: who made it.
        headers: by lower-case name.
        content: the body's bytes.
    """

    __test__ = False

    actor_id: str
    link: str
    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.content)


@dataclass(frozen=True, slots=True)
class TestAnswer:
    """What the outside world answers.

    Attributes:
        body: bytes and text as they are, anything else as JSON; None for no body.
        delay_s: before the head comes: virtual seconds.
        pieces: instead of `body`: texts and bytes as they come, numbers for virtual seconds in between, and an error
            for a connection that breaks there.
        crash: the actor dies after the request has left, before it knows the answer.
    """

    __test__ = False

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    pieces: Sequence[str | bytes | float | HostError] | None = None
    crash: bool = False


@dataclass(slots=True)
class _Stream:
    pieces: Iterator[Any]
    deadline_ns: int
    rest: bytes = b""
    size: int = 0


class TestLink:
    """A service link as a test sees it.

    Attributes:
        requests: all that were made, oldest first.
    """

    __test__ = False

    def __init__(self, name: str, answer: Callable[[TestRequest], Any], timeout_s: float) -> None:
        self.name = name
        self.requests: list[TestRequest] = []
        self.timeout_ns = round(timeout_s * 1e9)
        self.answer = answer

    def __repr__(self) -> str:
        return f"<TestLink {self.name}: {len(self.requests)} requests>"


def canned(answers: Iterable[Any]) -> Callable[[TestRequest], Any]:
    """One answer after the other; whoever asks for more gets an error."""
    left = iter(answers)

    def answer(request: TestRequest) -> Any:
        for each in left:
            return each
        raise AssertionError(f"{request.method} {request.path}: the test has no more answers for link {request.link!r}")

    return answer


class Links:
    """All service links of a test node."""

    def __init__(self, node: TestNode) -> None:
        self._node = node
        self._links: dict[str, TestLink] = {}
        # By owner: what it reads piece by piece, and how many it has opened.
        self._streams: dict[str, dict[str, _Stream]] = {}
        self._opened = 0
        # Streams that ended with an incarnation.
        self._cut: set[str] = set()

    def put(self, name: str, answer: Callable[[TestRequest], Any] | Iterable[Any], timeout_s: float) -> TestLink:
        """Make a link, or another of the same name."""
        function = answer if callable(answer) else canned(answer)
        link = self._links[name] = TestLink(name, function, timeout_s)
        return link

    def known(self, name: str) -> bool:
        """Whether there is such a link."""
        return name in self._links

    def fetch(self, cell: _Cell, request: Any, key: str) -> tuple[int, dict[str, str], bytes]:
        """The whole answer.

        Args:
            key: the idempotency key of a durable actor, "" for none.
        """
        answer, deadline_ns = self._exchange(cell, request, key)
        stream = _Stream(_pieces(answer), deadline_ns)
        body = b""
        while (piece := self._next(cell, stream)) is not None:
            body += piece
        return answer.status, _headers(answer), body

    def open(self, cell: _Cell, request: Any, key: str) -> tuple[int, dict[str, str], str]:
        """The head of an answer, and the id of what its body is read from."""
        mine = self._streams.setdefault(cell.actor_id, {})
        limit = "http_streams_per_actor_max"
        if len(mine) >= (most := self._node._limits[limit]):
            raise over(limit, most, f"actor {cell.actor_id!r} reads {len(mine)} answers already")
        answer, deadline_ns = self._exchange(cell, request, key)
        self._opened += 1
        made = f"answer-{self._opened}"
        mine[made] = _Stream(_pieces(answer), deadline_ns)
        return answer.status, _headers(answer), made

    def read(self, cell: _Cell, stream_id: str) -> str | None:
        """The next piece of text; None at the end."""
        mine = self._streams.get(cell.actor_id, {})
        stream = mine.get(stream_id)
        if stream is None:
            if stream_id in self._cut and cell.durable:
                raise contract_error(
                    "unavailable",
                    f"answer {stream_id!r} was cut off: its actor has been restarted since; make the request again",
                )
            raise contract_error("not-found", f"the actor reads no answer {stream_id!r}: it is over, or was closed")
        try:
            piece = self._text(cell, stream)
        except BaseException:
            mine.pop(stream_id, None)
            raise
        if piece is None:
            mine.pop(stream_id, None)
        return piece

    def close(self, cell: _Cell, stream_id: str) -> None:
        """Stop reading."""
        self._streams.get(cell.actor_id, {}).pop(stream_id, None)

    def forget(self, cell: _Cell) -> None:
        """The actor has ended, and reads no more."""
        self._cut.update(self._streams.pop(cell.actor_id, ()))

    def _exchange(self, cell: _Cell, request: Any, key: str) -> tuple[TestAnswer, int]:
        link = self._links.get(request.link)
        if link is None:
            known = ", ".join(map(repr, sorted(self._links))) or "none"
            raise contract_error(
                "not-found", f"there is no link {request.link!r} (there are: {known}); make one with TestNode.http"
            )
        made = self._node._credentials.injected(_read(cell, request))
        if key:
            made.headers.setdefault("idempotency-key", key)
        now_ns = self._node._clock.elapsed_ns
        timeout_ns = min(link.timeout_ns, (request.timeout_ms or 1 << 40) * NS_PER_MS)
        deadline_ns = min(now_ns + timeout_ns, cell.deadline_ns or now_ns + timeout_ns)
        link.requests.append(made)
        try:
            answer = _answer(link.answer(made))
        except HostError as error:
            raise contract_error(error.code, error.message, **error.details) from None
        if answer.crash:
            self._node._die_in_call(cell)
        self._pass(cell, answer.delay_s, deadline_ns)
        return answer, deadline_ns

    def _pass(self, cell: _Cell, seconds: float, deadline_ns: int) -> None:
        """Let the actor wait, while others and time go on."""
        clock = self._node._clock
        due_ns = clock.elapsed_ns + round(seconds * 1e9)
        if due_ns > clock.elapsed_ns:
            waiter = Waiter(cell, min(due_ns, deadline_ns))
            self._node._wait(cell, waiter, lambda: None)
        if due_ns > deadline_ns or clock.elapsed_ns > deadline_ns:
            raise contract_error("deadline-exceeded", "the answer did not come in time")

    def _next(self, cell: _Cell, stream: _Stream) -> bytes | None:
        for piece in stream.pieces:
            if isinstance(piece, HostError):
                raise contract_error(piece.code, piece.message, **piece.details)
            if isinstance(piece, int | float):
                self._pass(cell, piece, stream.deadline_ns)
                continue
            data = piece.encode() if isinstance(piece, str) else bytes(piece)
            stream.size += len(data)
            if stream.size > _RESPONSE_BYTES_MAX:
                raise over("response_bytes_max", _RESPONSE_BYTES_MAX, "the answer is too large")
            if data:
                return data
        return None

    def _text(self, cell: _Cell, stream: _Stream) -> str | None:
        """The next characters that are whole."""
        self._pass(cell, 0, stream.deadline_ns)
        while (data := self._next(cell, stream)) is not None:
            data = stream.rest + data
            cut = _whole_until(data)
            stream.rest = data[cut:]
            if cut:
                return data[:cut].decode("utf-8", "replace")
        rest, stream.rest = stream.rest, b""
        return rest.decode("utf-8", "replace") or None


def _whole_until(data: bytes) -> int:
    """Up to where there is no character that may go on in what comes next."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if back < wanted else len(data)
        if byte < 0x80:
            break
    return len(data)


def _read(cell: _Cell, request: Any) -> TestRequest:
    """A request, refused as the node refuses what is none."""
    if not _TOKEN.fullmatch(request.method):
        raise contract_error("invalid-argument", f"{request.method[:40]!r} is no method")
    if not request.path.startswith("/"):
        raise contract_error("invalid-argument", f"the path {request.path[:80]!r} does not begin with '/'")
    try:
        headers = json.loads(request.headers or "{}")
    except ValueError:
        headers = None
    if not isinstance(headers, dict):
        raise contract_error("invalid-argument", "the headers are no JSON object of name to value")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise contract_error("invalid-argument", f"{name[:80]!r} is no header, or its value is none")
    if size_of(request.body) > _REQUEST_BYTES_MAX * (2 if request.body_base64 else 1):
        raise over("request_bytes_max", _REQUEST_BYTES_MAX, "the request's body is too large")
    content = request.body.encode("utf-8", "surrogatepass")
    if request.body_base64:
        try:
            content = base64.b64decode(content, validate=True)
        except binascii.Error:
            raise contract_error("invalid-argument", "the body is not base64") from None
    lower = {name.lower(): value for name, value in headers.items()}
    return TestRequest(cell.actor_id, request.link, request.method.upper(), request.path, lower, content)


def _answer(given: Any) -> TestAnswer:
    match given:
        case TestAnswer():
            return given
        case HostError():
            raise given
        case None:
            return TestAnswer(status=204)
        case (int() as status, body):
            return TestAnswer(body, status)
        case _:
            return TestAnswer(given)


def _pieces(answer: TestAnswer) -> Iterator[Any]:
    if answer.pieces is not None:
        return iter(answer.pieces)
    match answer.body:
        case None:
            return iter(())
        case str() | bytes() as body:
            return iter((body,))
        case body:
            return iter((json.dumps(body),))


def _headers(answer: TestAnswer) -> dict[str, str]:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    if answer.body is not None and not isinstance(answer.body, str | bytes):
        headers.setdefault("content-type", "application/json")
    return headers
