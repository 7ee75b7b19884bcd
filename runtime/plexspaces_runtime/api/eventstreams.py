"""Event streams over HTTP: append, read, follow as Server-Sent Events, pause, clear, schedule.

A live reader holds an offset and a flag.  The flag says that there may be more; the events come out of the store when
the client has taken those before, so a slow reader costs no memory, and a fast stream none either.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import orjson

from ..clock import Clock
from ..config import Limits
from ..errors import InvalidArgument, LimitExceeded, NotFound, PayloadTooLarge, Unavailable
from ..scope import Scope, check_name
from ..stores import schedule
from ..stores.schedule import Timing
from ..stores.schedules import Schedule, Schedules
from ..stores.streams import READ_DEFAULT, READ_MAX, Appended, StreamEvent, StreamInfo, Streams
from .config import HttpConfig
from .faults import Response, StreamingResponse
from .incoming import JSON, NO_STORE, Request, json_response, whole
from .ports import StorePort
from .requests import check_content_type, parse_idempotency_key

_BODY_OVERHEAD_BYTES: Final = 64 * 1024
# With the largest events there may be, what one reader holds while its client takes its time: about a megabyte.
_LIVE_BATCH: Final = 4
_OFFSET_MAX: Final = 2**63 - 1
_SHAPE: Final = 'a JSON object such as {"event_type": "note", "payload": {"text": "hello"}}'


class _LiveReader:
    """Woken when there may be something to send."""

    __slots__ = ("wake",)

    def __init__(self) -> None:
        self.wake = asyncio.Event()


class StreamRoutes:
    """The handlers of the routes below /api/v1/streams and /api/v1/schedules.

    Args:
        stores: None for a node that keeps no streams.
    """

    def __init__(self, stores: StorePort | None, config: HttpConfig, limits: Limits, clock: Clock) -> None:
        self._stores = stores
        self._config = config
        self._limits = limits
        self._clock = clock
        self._closing = False
        self._readers: set[_LiveReader] = set()
        self._readers_of: dict[str, int] = {}

    def close(self) -> None:
        """End every live reader, with a hint to come back."""
        self._closing = True
        for reader in self._readers:
            reader.wake.set()

    # -- streams ------------------------------------------------------------------------------------------

    async def list_streams(self, request: Request) -> Response:
        """GET /api/v1/streams"""
        arguments = request.arguments("namespace", "prefix", "after", "limit")
        scope = _scope(request, arguments)
        limit = whole("limit", arguments.get("limit", str(self._config.list_max)), self._config.list_max)
        found = self._streams.list_streams(
            scope, arguments.get("prefix", ""), arguments.get("after", ""), min(limit, READ_MAX)
        )
        await self._flushed()
        content: dict[str, Any] = {"streams": [_info_json(info) for info in found]}
        if len(found) == limit:
            content["next"] = found[-1].path
        return json_response(200, content)

    async def append_event(self, request: Request) -> Response:
        """POST /api/v1/streams/{path}"""
        scope, path = _scope(request, request.arguments("namespace")), "/" + request.parameters["path"]
        header = request.headers.get(b"idempotency-key")
        key = parse_idempotency_key(header) if header is not None else ""
        try:
            body = await request.body(2 * self._limits.stream_event_bytes_max + _BODY_OVERHEAD_BYTES)
        except PayloadTooLarge:
            message = f"more than stream_event_bytes_max = {self._limits.stream_event_bytes_max} bytes"
            size = int(request.headers.get(b"content-length", b"0"))
            appended = self._streams.append_error(scope, path, "too-large", message, "", size, key)
        else:
            check_content_type(request.headers.get(b"content-type"), body)
            appended = self._append(scope, path, body, key)
        await self._flushed()
        content: dict[str, Any] = {"offset": appended.offset, "event_type": appended.event_type}
        if appended.reason:
            content["reason"] = appended.reason
        answer = json_response(200 if appended.repeated else 201, content)
        if appended.repeated:
            answer.headers.append((b"idempotency-replayed", b"true"))
        return answer

    def _append(self, scope: Scope, path: str, body: bytes, key: str) -> Appended:
        try:
            # Not orjson: a number of any length stays what it was.
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            text = body.decode("utf-8", "replace")
            message = f"the body is not JSON: {error}"
            return self._streams.append_error(scope, path, "not-json", message, text, len(body), key)
        if (
            not isinstance(content, dict)
            or not content.keys() <= {"event_type", "payload"}
            or (not isinstance(content.get("event_type"), str))
        ):
            text = body.decode("utf-8", "replace")
            message = f"an append is {_SHAPE}, with nothing else in it"
            return self._streams.append_error(scope, path, "bad-shape", message, text, len(body), key)
        payload = json.dumps(content.get("payload"), ensure_ascii=False, separators=(",", ":"))
        return self._streams.append(scope, path, content["event_type"], payload, key)

    async def read_stream(self, request: Request) -> Response | StreamingResponse:
        """GET /api/v1/streams/{path}"""
        arguments = request.arguments("namespace", "after", "limit", "live")
        scope, path = _scope(request, arguments), "/" + request.parameters["path"]
        after = _offset("after", arguments.get("after", "0"))
        if arguments.get("live", "false") not in ("true", "false"):
            raise InvalidArgument("live is to be true or false")
        if arguments.get("live") == "true":
            if "limit" in arguments:
                raise InvalidArgument("limit is for reading once: a live reader gets everything")
            # A browser that comes back sends the address it was given, and beside it where it had got to.
            last = request.headers.get(b"last-event-id", b"").decode("latin-1")
            return self._follow(scope, path, _offset("Last-Event-ID", last) if last else after)
        limit = whole("limit", arguments.get("limit", str(READ_DEFAULT)), READ_MAX)
        events = self._streams.read(scope, path, after, limit, durable=True)
        info = self._streams.info(scope, path, durable=True)
        rows = b",".join(_event_json(event) for event in events)
        head = orjson.dumps(_info_json(info))[:-1]
        next_ = events[-1].offset if events else min(after, info.last)
        return Response(200, [JSON, NO_STORE], head + b',"next":%d,"events":[' % next_ + rows + b"]}")

    async def change_stream(self, request: Request) -> Response:
        """PATCH /api/v1/streams/{path}"""
        scope, path = _scope(request, request.arguments("namespace")), "/" + request.parameters["path"]
        body = await request.body(1024)
        check_content_type(request.headers.get(b"content-type"), body)
        match _loads(body):
            case {"flow": "held", **rest} if not rest:
                self._streams.hold(scope, path, request.principal.subject)
            case {"flow": "flowing", **rest} if not rest:
                self._streams.resume(scope, path, request.principal.subject)
            case _:
                raise InvalidArgument('send {"flow": "held"} to pause a stream, {"flow": "flowing"} to resume it')
        await self._flushed()
        return json_response(200, _info_json(self._streams.info(scope, path)))

    async def clear_stream(self, request: Request) -> Response:
        """DELETE /api/v1/streams/{path}"""
        scope, path = _scope(request, request.arguments("namespace")), "/" + request.parameters["path"]
        self._streams.clear(scope, path)
        await self._flushed()
        return Response(204, [NO_STORE])

    # -- live ---------------------------------------------------------------------------------------------

    def _follow(self, scope: Scope, path: str, after: int) -> StreamingResponse:
        readers_max = self._limits.live_readers_per_tenant_max
        if self._readers_of.get(scope.tenant, 0) >= readers_max:
            raise LimitExceeded(
                f"the tenant has {readers_max} live readers, as many as it may: end some, or raise "
                "live_readers_per_tenant_max",
                limit="live_readers_per_tenant_max",
                value=readers_max,
            )
        # Here, not when the first piece is asked for: a path that is none is refused with a status.
        self._streams.read(scope, path, after, 1)
        headers = [(b"content-type", b"text/event-stream"), NO_STORE, (b"x-accel-buffering", b"no")]
        return StreamingResponse(200, headers, self._live(self._streams, scope, path, after))

    async def _live(self, streams: Streams, scope: Scope, path: str, after: int) -> AsyncGenerator[bytes, None]:
        config, reader = self._config, _LiveReader()
        until_ns = self._clock.monotonic_ns() + int(config.live_s_max * 1e9)
        stop = streams.watch(scope, path, reader.wake.set, durable=True)
        self._readers.add(reader)
        self._readers_of[scope.tenant] = self._readers_of.get(scope.tenant, 0) + 1
        try:
            yield b"retry: %d\n\n" % config.live_retry_ms
            while not self._closing:
                left_s = (until_ns - self._clock.monotonic_ns()) / 1e9
                if left_s <= 0:
                    yield b": this connection has lasted long enough, come back\n\n"
                    return
                reader.wake.clear()
                events = streams.read(scope, path, after, _LIVE_BATCH, durable=True)
                if events:
                    after = events[-1].offset
                    yield b"".join(_sse(event) for event in events)
                    # A client that reads as fast as it is written to would otherwise keep the loop to itself.
                    await asyncio.sleep(0)
                    continue
                try:
                    async with asyncio.timeout(min(config.live_heartbeat_s, left_s)):
                        await reader.wake.wait()
                except TimeoutError:
                    if left_s > config.live_heartbeat_s:
                        yield b":\n\n"
            yield b": the node is stopping, come back\nretry: %d\n\n" % config.live_retry_ms
        finally:
            stop()
            self._readers.discard(reader)
            self._readers_of[scope.tenant] -= 1
            if not self._readers_of[scope.tenant]:
                del self._readers_of[scope.tenant]

    # -- schedules ----------------------------------------------------------------------------------------

    async def list_schedules(self, request: Request) -> Response:
        """GET /api/v1/schedules"""
        scope = _scope(request, request.arguments("namespace"))
        found = self._schedules.list_schedules(scope)
        await self._flushed()
        return json_response(200, {"schedules": [_schedule_json(each) for each in found]})

    async def add_schedule(self, request: Request) -> Response:
        """POST /api/v1/schedules"""
        scope = _scope(request, request.arguments("namespace"))
        body = await request.body(2 * self._limits.stream_event_bytes_max + _BODY_OVERHEAD_BYTES)
        check_content_type(request.headers.get(b"content-type"), body)
        content = _loads(body)
        unknown = content.keys() - {"path", "event_type", "payload", "at_ms", "every_s", "cron"}
        if unknown:
            raise InvalidArgument(f"a schedule has no {sorted(unknown)[0][:80]!r}")
        for name in ("path", "event_type"):
            if not isinstance(content.get(name), str):
                raise InvalidArgument(f"{name!r} is missing, or no text")
        payload = json.dumps(content.get("payload"), ensure_ascii=False, separators=(",", ":"))
        timing = _timing(content, self._clock.now_ns() // 1_000_000)
        made = self._schedules.add(scope, content["path"], content["event_type"], payload, timing)
        await self._flushed()
        return json_response(201, _schedule_json(made))

    async def remove_schedule(self, request: Request) -> Response:
        """DELETE /api/v1/schedules/{id}"""
        scope, schedule_id = _scope(request, request.arguments("namespace")), request.parameters["id"]
        if not self._schedules.remove(scope, schedule_id):
            raise NotFound(f"there is no schedule {schedule_id[:80]!r}", schedule=schedule_id[:80])
        await self._flushed()
        return Response(204, [NO_STORE])

    # -- inside -------------------------------------------------------------------------------------------

    @property
    def _streams(self) -> Streams:
        return self._kept().streams

    @property
    def _schedules(self) -> Schedules:
        return self._kept().schedules

    async def _flushed(self) -> None:
        await self._kept().flushed()

    def _kept(self) -> StorePort:
        if self._stores is None:
            raise Unavailable("this node keeps no event streams")
        return self._stores


def _scope(request: Request, arguments: dict[str, str]) -> Scope:
    namespace = check_name("namespace", arguments.get("namespace", "default"))
    return request.principal.scope(request.principal.tenant, namespace)


def _offset(what: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= _OFFSET_MAX):
        raise InvalidArgument(f"{what} is to be an offset, a whole number from 0, not {text[:40]!r}")
    return int(text)


def _loads(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidArgument("the body is to be a JSON object")
    return content


def _timing(content: dict[str, Any], now_ms: int) -> Timing:
    match {name: content[name] for name in ("at_ms", "every_s", "cron") if name in content}:
        case {"at_ms": int(at_ms), **rest} if not rest and not isinstance(at_ms, bool):
            return schedule.once(at_ms)
        case {"every_s": int(every_s), **rest} if not rest and not isinstance(every_s, bool):
            return schedule.every(every_s, now_ms)
        case {"cron": str(expression), **rest} if not rest:
            return schedule.cron(expression)
    raise InvalidArgument(
        "say when, in one way: at_ms (Unix milliseconds), every_s (whole seconds) or cron (five fields, UTC)"
    )


def _info_json(info: StreamInfo) -> dict[str, Any]:
    return {
        "path": info.path,
        "first": info.first,
        "last": info.last,
        "bytes": info.bytes,
        "flow": info.flow,
        "modified_ms": info.modified_ms,
    }


def _event_json(event: StreamEvent) -> bytes:
    # Spliced, not parsed and printed; the type needs no escape, and the payload is one line of JSON.
    return b'{"offset":%d,"event_type":"%b","payload":%b,"time_ms":%d}' % (
        event.offset,
        event.event_type.encode(),
        event.payload.encode(),
        event.time_ms,
    )


def _sse(event: StreamEvent) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.offset, event.event_type.encode(), _event_json(event))


def _schedule_json(each: Schedule) -> dict[str, Any]:
    return {
        "id": each.id,
        "path": each.path,
        "event_type": each.event_type,
        "timing": each.timing.text,
        "next_ms": each.next_ms,
    }
