"""Blobs over HTTP: put and get as streams, with ETag, conditions and ranges (RFC 9110, 13 and 14)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, TypeVar

from ..errors import InvalidArgument, NotFound, RateLimited, Unavailable
from ..scope import Scope
from ..stores.blobs import LIST_MAX, BlobInfo, Blobs, Reader, Upload
from .config import HttpConfig
from .faults import Headers, RangeNotSatisfiable, Response, StreamingResponse
from .incoming import NO_STORE, Request, json_response, whole
from .ports import StorePort

T = TypeVar("T")
_WRITE_BYTES: Final = 1 << 20
_READ_BYTES: Final = 256 * 1024
_RANGE: Final = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})")
# What a tenant has put is not the node's word: a browser that is sent here runs nothing of it.
_CONTAINED: Final = (b"content-security-policy", b"sandbox; default-src 'none'")


class BlobRoutes:
    """The handlers of the routes below /api/v1/blobs.

    Args:
        stores: None for a node that keeps no blobs.
    """

    def __init__(self, stores: StorePort | None, config: HttpConfig) -> None:
        self._stores = stores
        self._config = config
        self._uploads = 0

    async def list_blobs(self, request: Request) -> Response:
        """GET /api/v1/blobs/{namespace}"""
        arguments = request.arguments("prefix", "cursor", "limit")
        limit_max = min(self._config.list_max, LIST_MAX)
        limit = whole("limit", arguments.get("limit", str(limit_max)), limit_max)
        kept, scope = self._kept(), _scope(request)
        found = kept.blobs.list_blobs(scope, arguments.get("prefix", ""), arguments.get("cursor", ""), limit)
        await kept.flushed()
        content: dict[str, Any] = {"blobs": [_info_json(info) for info in found]}
        if len(found) == limit:
            content["next"] = found[-1].name
        return json_response(200, content)

    async def put_blob(self, request: Request) -> Response:
        """PUT /api/v1/blobs/{namespace}/{name}"""
        request.arguments()
        kept, scope, name = self._kept(), _scope(request), request.parameters["name"]
        condition = request.headers.get(b"if-none-match")
        if condition not in (None, b"*") or b"if-match" in request.headers:
            raise InvalidArgument("the one condition that a blob is put under is If-None-Match: *")
        if b"content-range" in request.headers:
            # RFC 9110, 14.4: to ignore it would make a part the whole.
            raise InvalidArgument("a blob is put as a whole: leave out Content-Range")
        if self._uploads >= self._config.blob_uploads_max:
            raise RateLimited(
                f"the node receives {self._config.blob_uploads_max} blobs at a time: try again later",
                retry_after_ms=1_000,
            )
        content_type = request.headers.get(b"content-type", b"").decode("latin-1")
        size = int(request.headers.get(b"content-length", b"0"))
        upload = kept.blobs.begin(scope, name, content_type, size_bytes=size, only_new=condition is not None)
        self._uploads += 1
        try:
            await _receive(request, kept.blobs, upload)
            info, is_new = kept.blobs.finish(upload)
        except BaseException:
            upload.discard()
            raise
        finally:
            self._uploads -= 1
        await kept.flushed()
        answer = json_response(201 if is_new else 200, _info_json(info))
        answer.headers.append((b"etag", _etag(info)))
        return answer

    async def get_blob(self, request: Request) -> Response | StreamingResponse:
        """GET /api/v1/blobs/{namespace}/{name}"""
        request.arguments()
        kept, name = self._kept(), request.parameters["name"]
        await kept.flushed()
        found = kept.blobs.open(_scope(request), name)
        if found is None:
            raise _absent(name)
        info, reader = found
        try:
            return _answer(request, info, reader)
        except BaseException:
            reader.close()
            raise

    async def delete_blob(self, request: Request) -> Response:
        """DELETE /api/v1/blobs/{namespace}/{name}"""
        request.arguments()
        kept, name = self._kept(), request.parameters["name"]
        if not kept.blobs.delete(_scope(request), name):
            raise _absent(name)
        await kept.flushed()
        return Response(204, [NO_STORE])

    def _kept(self) -> StorePort:
        if self._stores is None:
            raise Unavailable("this node keeps no blobs")
        return self._stores


async def _receive(request: Request, blobs: Blobs, upload: Upload) -> None:
    pending = bytearray()
    async for piece in request.pieces():
        pending += piece
        if len(pending) >= _WRITE_BYTES:
            await in_thread(upload.write, bytes(pending))
            pending.clear()
            blobs.check(upload)
    if pending:
        await in_thread(upload.write, bytes(pending))
    blobs.check(upload)
    await in_thread(upload.seal)


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Do something on another thread.  It is not cancelled with the request, so its end is waited for all the same."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _answer(request: Request, info: BlobInfo, reader: Reader) -> Response | StreamingResponse:
    etag = _etag(info)
    headers: Headers = [
        (b"etag", etag),
        (b"cache-control", b"no-cache"),
        (b"accept-ranges", b"bytes"),
        _CONTAINED,
    ]
    if (condition := request.headers.get(b"if-none-match")) is not None:
        tags = [tag.strip().removeprefix(b"W/") for tag in condition.split(b",")]
        if condition.strip() == b"*" or etag in tags:
            reader.close()
            return Response(304, headers)
    status, first, end = 200, 0, info.size_bytes
    wanted = request.headers.get(b"range")
    if wanted is not None and request.headers.get(b"if-range", etag) == etag:
        part = _part(wanted, info.size_bytes)
        if part is not None:
            status, (first, end) = 206, part
            headers.append((b"content-range", b"bytes %d-%d/%d" % (first, end - 1, info.size_bytes)))
    headers += [
        (b"content-type", info.content_type.encode("latin-1")),
        (b"content-length", b"%d" % (end - first)),
    ]
    return StreamingResponse(status, headers, _pieces(reader, first, end), reader.close)


def _part(wanted: bytes, size: int) -> tuple[int, int] | None:
    """The range that is asked for, its end excluded; None for what is to be ignored: several, or another unit."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or match[1] == match[2] == b"":
        return None
    if not match[1]:
        first, end = max(0, size - int(match[2])), size
    else:
        first, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < first:
            return None
    if first >= end:
        raise RangeNotSatisfiable(f"the blob has {size} bytes: nothing of it is in this range", size_bytes=size)
    return first, end


async def _pieces(reader: Reader, first: int, end: int) -> AsyncGenerator[bytes, None]:
    while first < end:
        # Cancelled, it has to wait: the file must not be closed, and its number taken by another, while it is read.
        piece = await in_thread(reader.read, first, min(_READ_BYTES, end - first))
        if not piece:
            raise EOFError("a blob's file is shorter than its row says")
        first += len(piece)
        yield piece


def _scope(request: Request) -> Scope:
    return request.principal.scope(request.principal.tenant, request.parameters["namespace"])


def _etag(info: BlobInfo) -> bytes:
    return b'"%b"' % info.sha256.encode()


def _absent(name: str) -> NotFound:
    return NotFound(f"there is no blob {name[:80]!r}", name=name)


def _info_json(info: BlobInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "size_bytes": info.size_bytes,
        "content_type": info.content_type,
        "sha256": info.sha256,
        "modified_ms": info.modified_ms,
    }
