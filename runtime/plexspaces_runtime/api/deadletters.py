"""Dead letters over HTTP: list, retry, drop.

A dead letter is told by its id alone, and says of what `kind` its `source` is.  A client that follows `next` and hands
ids back needs to know nothing else of where they come from.  Those of channels come first, then those of actors; each
kind oldest first.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from ..durability.journals import Journals
from ..errors import InvalidArgument, Unavailable
from ..scope import Scope, check_name
from ..stores.channels import LIST_MAX, DeadLetter
from ..stores.journal import DeadMessage
from .faults import Response
from .incoming import JSON, NO_STORE, Request, whole
from .ports import StorePort

_CHANNEL: Final = "channel"
_ACTOR: Final = "actor"
_KINDS: Final = (_CHANNEL, _ACTOR)
_ACTOR_ID: Final = re.compile(r"actor-([0-9]{1,18})")
_LIMIT: Final = 100
# A page is made in memory, and a payload may be large.
_PAGE_PAYLOAD_BYTES_MAX: Final = 4 * 1024 * 1024


class DeadLetterRoutes:
    """The handlers of the routes below /api/v1/dead-letters.

    Args:
        stores: None for a node that keeps none.
        journals: has those of durable actors; None for a node that keeps none.
    """

    def __init__(self, stores: StorePort | None, journals: Journals | None) -> None:
        self._stores = stores
        self._journals = journals

    async def list_dead_letters(self, request: Request) -> Response:
        """GET /api/v1/dead-letters"""
        arguments = request.arguments("namespace", "kind", "source", "after", "limit")
        scope, stores = _scope(request, arguments), self._kept()
        if (kind := arguments.get("kind")) not in (None, *_KINDS):
            raise InvalidArgument(f"kind is to be {' or '.join(_KINDS)}, not {kind[:40]!r}")
        source, after = arguments.get("source"), arguments.get("after", "")
        limit = whole("limit", arguments.get("limit", str(_LIMIT)), LIST_MAX)
        behind = _ACTOR_ID.fullmatch(after)
        pieces: list[bytes] = []
        last, is_more = "", False
        if kind != _ACTOR and behind is None:
            found = stores.channels.dead_letters(
                scope, source, after, limit, payload_bytes_max=_PAGE_PAYLOAD_BYTES_MAX
            )
            pieces = [_letter_json(each) for each in found]
            if found:
                last = found[-1].id
                is_more = bool(stores.channels.dead_letters(scope, source, last, 1))
        if kind != _CHANNEL and not is_more and self._journals is not None:
            size = sum(map(len, pieces))
            # One more than there is room for, to know whether there is another page.
            dead = await self._journals.dead_letters(
                scope, source, after=int(behind[1]) if behind else 0, limit=limit - len(pieces) + 1
            )
            for each in dead:
                if len(pieces) == limit or (pieces and size >= _PAGE_PAYLOAD_BYTES_MAX):
                    is_more = True
                    break
                pieces.append(_message_json(each))
                size += len(pieces[-1])
                last = _id(each)
        body = b'{"dead_letters":[' + b",".join(pieces) + b"]"
        if is_more:
            body += b',"next":' + orjson.dumps(last)
        await stores.flushed()
        return Response(200, [JSON, NO_STORE], body + b"}")

    async def retry_dead_letter(self, request: Request) -> Response:
        """POST /api/v1/dead-letters/{id}/retry"""
        scope, stores = _scope(request, request.arguments("namespace")), self._kept()
        id_ = request.parameters["id"]
        if self._journals is not None and (known := _ACTOR_ID.fullmatch(id_)):
            await self._journals.retry(scope, int(known[1]))
        else:
            stores.channels.retry(scope, id_)
        await stores.flushed()
        return Response(204, [NO_STORE])

    async def drop_dead_letter(self, request: Request) -> Response:
        """DELETE /api/v1/dead-letters/{id}"""
        scope, stores = _scope(request, request.arguments("namespace")), self._kept()
        id_ = request.parameters["id"]
        if self._journals is not None and (known := _ACTOR_ID.fullmatch(id_)):
            await self._journals.drop(scope, int(known[1]))
        else:
            stores.channels.drop(scope, id_)
        await stores.flushed()
        return Response(204, [NO_STORE])

    def _kept(self) -> StorePort:
        if self._stores is None:
            raise Unavailable("this node keeps no dead letters")
        return self._stores


def _scope(request: Request, arguments: dict[str, str]) -> Scope:
    namespace = check_name("namespace", arguments.get("namespace", "default"))
    return request.principal.scope(request.principal.tenant, namespace)


def _letter_json(letter: DeadLetter) -> bytes:
    # The payload is spliced, not parsed and printed: a number of any length stays what it was.
    head = orjson.dumps({"id": letter.id, "kind": _CHANNEL, "source": letter.channel, "msg_type": letter.msg_type})
    tail = orjson.dumps(
        {
            "deliveries": letter.deliveries,
            "enqueued_ms": letter.enqueued_ms,
            "dead_ms": letter.dead_ms,
            "reason": letter.reason,
        }
    )
    return head[:-1] + b',"payload":' + letter.payload.encode() + b"," + tail[1:]


def _id(dead: DeadMessage) -> str:
    return f"{_ACTOR}-{dead.id}"


def _message_json(dead: DeadMessage) -> bytes:
    head = orjson.dumps({"id": _id(dead), "kind": _ACTOR, "source": dead.address.text, "msg_type": dead.message["op"]})
    tail = orjson.dumps(
        {
            "deliveries": dead.attempts,
            "enqueued_ms": None,
            "dead_ms": dead.at_ms,
            "reason": dead.reason,
            "message_id": dead.message["id"],
        }
    )
    payload: str = dead.message["payload"]
    return head[:-1] + b',"payload":' + payload.encode() + b"," + tail[1:]
