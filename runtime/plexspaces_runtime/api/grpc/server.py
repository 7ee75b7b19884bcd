"""The gRPC server: calls in, requests to the one application, answers and errors out.

It runs on the node's own event loop.  gRPC's core reads and writes sockets on threads of its own, without the GIL; what
is Python is a coroutine per call beside those of HTTP, and no message changes threads on its way to an actor.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import grpc  # type: ignore[import-untyped,unused-ignore]
import orjson
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped,unused-ignore]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped,unused-ignore]

from ...errors import Cancelled, InvalidArgument, PlexSpacesError
from ..app import Api
from ..faults import FAULTS, Headers, Response, StreamingResponse, problem
from ..incoming import JSON
from ..routes import ROUTES
from ..tls import Certificates
from .config import GrpcConfig
from .messages import POOL, SERVICES, message_class
from .table import RPCS, Rpc
from .transcode import Encoder, fill
from .uploads import application_form, content_type, deploy_form, leave, parsed, receiver

_OVERHEAD_BYTES: Final = 64 * 1024
# Metadata that mean something.  Two of one are two headers, which the application refuses.
_METADATA: Final = frozenset({"authorization", "idempotency-key", "traceparent"})
# Trailing metadata are for the most part refused by clients beyond 8 KiB, and the error with them.
_PROBLEM_BYTES_MAX: Final = 4 * 1024
_MESSAGE_CHARS_MAX: Final = 1024
# An answer beyond this is taken apart on another thread: the loop has others to serve.
_TEXT_CHARS_MAX: Final = 64 * 1024
_T = TypeVar("_T")
_ROUTES: Final = {route.operation: route for route in ROUTES}


class GrpcServer:
    """Serves one application on one more address, on the running event loop.

    Args:
        api: what answers, for HTTP as well.
        config: address and limits.
        tls: the certificate; None for plaintext.
    """

    def __init__(
        self,
        api: Api,
        config: GrpcConfig | None = None,
        *,
        tls: Certificates | None = None,
    ) -> None:
        self.config = config or GrpcConfig()
        self._api = api
        self._tls = tls
        self._health = health.aio.HealthServicer()
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            OSError: the address cannot be listened on.
        """
        config = self.config
        server = aio.server(
            options=_options(config, self._message_bytes_max()),
            maximum_concurrent_rpcs=self._api.config.requests_max,
        )
        for name, rpcs in RPCS.items():
            methods = SERVICES[name].methods_by_name
            handlers = {each: self._handler(methods[each], rpc) for each, rpc in rpcs.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for name in ("", *RPCS):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        public = (*RPCS, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(public, server, pool=POOL)
        where = f"[{config.host}]:{config.port}" if ":" in config.host else f"{config.host}:{config.port}"
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(where)
            else:
                self.port = server.add_secure_port(where, self._tls.grpc_credentials())
        except RuntimeError as error:
            # It does not say why in a way that could be told from other reasons; the system does.
            socket.create_server((config.host, config.port), family=_family(config.host)).close()
            raise OSError(f"gRPC cannot listen on {where}: {error}") from None
        await server.start()
        self._server = server

    async def drain(self) -> None:
        """Begin to stop: the health service says so.  The application refuses new work by itself."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Drain, finish what is under way, and cut off what is not finished after `grace_s` seconds."""
        await self.drain()
        if self._server is not None:
            await self._server.stop(grace_s)

    # -- calls --------------------------------------------------------------------------------------------

    def _handler(self, method: MethodDescriptor, rpc: Rpc) -> Any:
        encoder = Encoder.of(rpc, _ROUTES[rpc.operation])
        call = _Call(self._api, self.config, self._tls, method, rpc, encoder)
        # Messages are read by the call itself: what is none is then the caller's fault, not the server's.
        write = {"response_serializer": lambda message: message.SerializeToString()}
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(call.upload, **write)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(call.follow, **write)
        return grpc.unary_unary_rpc_method_handler(call.answer, **write)

    def _message_bytes_max(self) -> int:
        limits = self._api.limits
        texts = max(limits.payload_bytes_max, 2 * limits.stream_event_bytes_max)
        return max(texts, self.config.piece_bytes_max) + _OVERHEAD_BYTES


class _Call:
    """One RPC's way to the application and back."""

    def __init__(
        self,
        api: Api,
        config: GrpcConfig,
        tls: Certificates | None,
        method: MethodDescriptor,
        rpc: Rpc,
        encoder: Encoder,
    ) -> None:
        self._api = api
        self._config = config
        self._tls = tls
        self._name = method.name
        self._rpc = rpc
        self._encoder = encoder
        self._method = _ROUTES[rpc.operation].method
        self._request_class = message_class(method.input_type.full_name)
        self._reply_class = message_class(method.output_type.full_name)

    async def answer(self, data: bytes, context: Any) -> Message:
        """A message for a message."""
        return await self._guarded(context, self._answer(data, context))

    async def upload(self, pieces: AsyncIterator[bytes], context: Any) -> Message:
        """A message for a stream that makes a form."""
        return await self._guarded(context, self._upload(pieces, context), pieces)

    async def follow(self, data: bytes, context: Any) -> None:
        """A stream of events for a message."""
        await self._guarded(context, self._follow(data, context))

    async def _guarded(
        self, context: Any, work: Awaitable[_T], unread: AsyncIterator[bytes] | None = None
    ) -> _T:
        try:
            return await work
        except _Refused as refused:
            answer = refused.answer
        except PlexSpacesError as error:
            answer = problem(error)
        except aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the last resort: a client gets an answer, the log the traceback
            answer = self._api.incident(error)
        if unread is not None:
            await leave(unread, self._api.config.linger_s)
        await context.abort(*_status(answer))
        raise AssertionError("an aborted call goes on")

    async def _answer(self, data: bytes, context: Any) -> Message:
        answer = await self._request(self._parse(data), context)
        assert isinstance(answer, Response)
        return await self._reply(answer)

    async def _upload(self, pieces: AsyncIterator[bytes], context: Any) -> Message:
        headers, _ = await self._head(context)
        boundary = f"plexspaces-{self._api.ids.random_bytes(16).hex()}"
        headers.append((b"content-type", content_type(boundary)))
        messages = parsed(pieces, self._parse)
        form: AsyncGenerator[bytes, None]
        if self._name == "DeployApplication":
            form = application_form(messages, boundary)
        else:
            form = deploy_form(messages, boundary, check=self._name == "Check")
        path = _ROUTES[self._rpc.operation].path.encode()
        async with aclosing(form):
            answer = await self._api.answer(
                _scope(self._method, path, b"", headers), receiver(form, self._api.config)
            )
        return await self._reply(_whole(answer))

    async def _follow(self, data: bytes, context: Any) -> None:
        answer = await self._request(self._parse(data), context, live="true")
        if isinstance(answer, Response):
            raise _Refused(answer)
        try:
            async with aclosing(answer.pieces) as pieces:
                # The client hears that it is let in before there is an event.
                await context.send_initial_metadata(())
                async for piece in pieces:
                    for line in piece.split(b"\n"):
                        if line.startswith(b"data: "):
                            await self._write(context, line[6:].decode())
        finally:
            answer.close()
        self._api.must_be_open()

    async def _write(self, context: Any, event: str) -> None:
        message = self._reply_class()
        fill(message, event)
        try:
            async with asyncio.timeout(self._config.stall_s):
                await context.write(message)
        except TimeoutError:
            raise Cancelled(f"the client has left events unread for {self._config.stall_s:g} s") from None

    # -- inside -------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> Message:
        message = self._request_class()
        try:
            message.ParseFromString(data)
        except DecodeError:
            raise InvalidArgument(f"this is no {message.DESCRIPTOR.full_name}") from None
        return message

    async def _request(self, message: Message, context: Any, **more: str) -> Response | StreamingResponse:
        headers, tenant = await self._head(context)
        path, query, body = self._encoder.encode(message, tenant, more)
        if self._rpc.waits:
            headers.append((b"prefer", b"wait=%.2f" % self._wait_s(context)))
        if body:
            headers += [(JSON[0], JSON[1]), (b"content-length", b"%d" % len(body))]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        answer = await self._api.answer(_scope(self._method, path, query, headers), receive)
        return answer if isinstance(answer, StreamingResponse) else _whole(answer)

    async def _head(self, context: Any) -> tuple[Headers, str]:
        """The metadata that count as headers, and the tenant of the token among them."""
        if self._tls is not None:
            shown = context.auth_context().get("x509_pem_cert", ())
            self._tls.admit("grpc", _place(context.peer()), shown[0] if shown else None)
        headers: Headers = [
            (name.encode(), value.encode() if isinstance(value, str) else value)
            for name, value in context.invocation_metadata() or ()
            if name in _METADATA
        ]
        # The request names the tenant as any does, and the application asks the token again.
        principal = await self._api.principal(dict(headers).get(b"authorization", b""))
        return headers, principal.tenant

    def _wait_s(self, context: Any) -> float:
        left_s: float | None = context.time_remaining()
        if left_s is None:
            return self._api.limits.ask_timeout_ms / 1_000
        # Nothing to wait would be no ask.
        return max(0.01, left_s)

    async def _reply(self, answer: Response) -> Message:
        message = self._reply_class()
        text = answer.body.decode()
        if self._rpc.reply:
            setattr(message, self._rpc.reply, text)
        elif len(text) > _TEXT_CHARS_MAX:
            await asyncio.to_thread(fill, message, text)
        elif text:
            fill(message, text)
        return message


class _Refused(Exception):
    """The application has answered with a problem document."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


def _whole(answer: Response | StreamingResponse | None) -> Response:
    if answer is None:
        raise Cancelled("the client went away before its request was complete")
    assert isinstance(answer, Response)
    if answer.status >= 400:
        raise _Refused(answer)
    return answer


def _scope(method: str, path: bytes, query: bytes, headers: Headers) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "2",
        "method": method,
        "raw_path": path,
        "query_string": query,
        "headers": headers,
    }


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _place(peer: str) -> str:
    """An address as HTTP writes it, from gRPC's `ipv4:127.0.0.1:1` or `ipv6:%5B::1%5D:1`."""
    return unquote(peer.partition(":")[2])


def _status(answer: Response) -> tuple[Any, str, tuple[tuple[str, str | bytes], ...]]:
    """What gRPC says of a problem document: code, message, trailing metadata."""
    document = orjson.loads(answer.body)
    code: str = document["code"]
    message: str = document["detail"]
    body = answer.body
    if len(body) > _PROBLEM_BYTES_MAX:
        # What is wrong has to arrive, if need be without its particulars.
        document.pop("details", None)
        document["detail"] = message[:_MESSAGE_CHARS_MAX]
        body = orjson.dumps(document)
    trailing: list[tuple[str, str | bytes]] = [("plexspaces-code", code), ("plexspaces-problem-bin", body)]
    trailing += [
        (name.decode(), value.decode()) for name, value in answer.headers if name == b"retry-after"
    ]
    # Whatever is not plain ASCII takes three bytes for each of its own.
    short = message.encode()[:_MESSAGE_CHARS_MAX].decode("utf-8", "ignore")
    return grpc.StatusCode[FAULTS[code].grpc], short, tuple(trailing)


def _options(config: GrpcConfig, message_bytes_max: int) -> list[tuple[str, int]]:
    def ms(seconds: float) -> int:
        return int(seconds * 1_000)

    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        # An answer is as large as the application lets it be.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", config.streams_per_connection_max),
        ("grpc.max_allowed_incoming_connections", config.connections_max),
        ("grpc.max_metadata_size", config.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", config.metadata_bytes_max),
        ("grpc.server_handshake_timeout_ms", ms(config.handshake_timeout_s)),
        ("grpc.max_connection_idle_ms", ms(config.idle_s_max)),
        ("grpc.keepalive_time_ms", ms(config.keep_alive_s)),
        ("grpc.keepalive_timeout_ms", ms(config.keep_alive_timeout_s)),
        # A client that follows a stream may ask whether we live, but not all the time.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", ms(config.ping_interval_s_min)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", ms(config.ping_interval_s_min)),
        ("grpc.http2.max_ping_strikes", 2),
        # Identity only: a message that is small on the wire stays small.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Two nodes on one port would each get half of the calls.
        ("grpc.so_reuseport", 0),
    ]
