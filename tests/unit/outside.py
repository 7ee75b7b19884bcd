"""The world outside a node, in a test's hand: in place of `egress.egress.Egress`, for what is in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from plexspaces_runtime.egress.links import Link, parse_link
from plexspaces_runtime.egress.model import Call, Request, Response
from plexspaces_runtime.errors import NotFound
from plexspaces_runtime.scope import Scope

# A text, an error, or something to wait for.
Piece = str | Exception | asyncio.Event


class Pieces:
    """An answer that is read piece by piece.

    Attributes:
        closed: nobody reads it any more.
        reading: somebody waits for the next piece.
    """

    def __init__(self, pieces: Sequence[Piece], status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers = headers or {}
        self.closed = False
        self.reading = False
        self._left = list(pieces)

    async def read(self) -> str | None:
        assert not self.closed, "a closed answer is read"
        assert not self.reading, "two reads at once"
        self.reading = True
        try:
            while self._left:
                match self._left.pop(0):
                    case asyncio.Event() as event:
                        await event.wait()
                    case Exception() as error:
                        raise error
                    case text:
                        return text
        finally:
            self.reading = False
        return None

    def close(self) -> None:
        self.closed = True


class Outside:
    """Answers requests as it is told to, and keeps them.

    Args:
        answer: what a request gets; an exception is raised.
        flushed: waited for before anything leaves.

    Attributes:
        calls: all that have left.
        under_way: requests that wait for their answer.
    """

    def __init__(
        self,
        answer: Callable[[Call, Request], Awaitable[Any]],
        *,
        flushed: Callable[[], Awaitable[None]] | None = None,
        **link: Any,
    ) -> None:
        self.answer = answer
        self.calls: list[tuple[Call, Request]] = []
        self.under_way = 0
        self._flushed = flushed
        self._link = parse_link("api", {"base_url": "https://api.example.com", "allow": ["* /**"], **link})

    @property
    def keys(self) -> list[str]:
        """The idempotency keys of what has left."""
        return [call.idempotency_key for call, _ in self.calls]

    def set_links(self, scope: Scope, application: str, links: Mapping[str, Link]) -> None: ...

    def find(self, scope: Scope, name: str) -> Link:
        if name != self._link.name:
            raise NotFound(f"there is no link {name!r}")
        return self._link

    async def fetch(self, call: Call, request: Request) -> Response:
        answer = await self._exchange(call, request)
        assert isinstance(answer, Response)
        return answer

    async def open(self, call: Call, request: Request) -> Pieces:
        answer = await self._exchange(call, request)
        assert isinstance(answer, Pieces)
        return answer

    async def close(self) -> None: ...

    async def _exchange(self, call: Call, request: Request) -> Any:
        self.find(call.scope, request.link)
        if self._flushed is not None:
            await self._flushed()
        self.calls.append((call, request))
        self.under_way += 1
        try:
            return await self.answer(call, request)
        finally:
            self.under_way -= 1
