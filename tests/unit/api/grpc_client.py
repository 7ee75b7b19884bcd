"""A gRPC door before the memory node, and a client that calls by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]
import orjson
from google.protobuf.message import Message
from grpc import aio

from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.grpc.config import GrpcConfig
from plexspaces_runtime.api.grpc.messages import SERVICES, message_class
from plexspaces_runtime.api.grpc.server import GrpcServer
from plexspaces_runtime.api.tls import Certificates
from tests.unit.api.kept_stores import KeptStores
from tests.unit.api.memory_node import MemoryNode, Served, serving

PACKAGE = "plexspaces.v1"
Metadata = Sequence[tuple[str, str | bytes]]


def message(name: str, /, **fields: Any) -> Any:
    """A message of the package."""
    return message_class(f"{PACKAGE}.{name}")(**fields)


class Client:
    """Calls `Service.Method` with the fields of its request.

    Args:
        token: of every call that brings none of its own; "" for none.
        credentials: of TLS; None for plaintext.
    """

    def __init__(
        self, port: int, token: str, *, credentials: Any = None, options: Iterable[tuple[str, Any]] = ()
    ) -> None:
        self._metadata: Metadata = [("authorization", f"Bearer {token}")] if token else []
        # Channels to one address share their connections otherwise, and with them each other's limits.
        options = [("grpc.use_local_subchannel_pool", 1), *options]
        where = f"localhost:{port}"
        self.channel = (
            aio.insecure_channel(f"127.0.0.1:{port}", options)
            if credentials is None
            else aio.secure_channel(where, credentials, options)
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def call(
        self,
        name: str,
        /,
        *,
        timeout_s: float | None = 10.0,
        metadata: Metadata | None = None,
        more: Metadata = (),
        data: bytes | None = None,
        compression: Any = None,
        **fields: Any,
    ) -> Any:
        """A call of one message: awaited, its reply; iterated, its replies.

        Args:
            metadata: in place of the token.
            more: beside the token.
            data: the request as bytes, in place of fields.
        """
        method = _method(name)
        make = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        start = make(_path(name), response_deserializer=message_class(method.output_type.full_name).FromString)
        if data is None:
            data = message_class(method.input_type.full_name)(**fields).SerializeToString()
        sent = [*(self._metadata if metadata is None else metadata), *more]
        return start(data, timeout=timeout_s, metadata=sent, compression=compression)

    def upload(self, name: str, messages: Any, *, more: Metadata = (), timeout_s: float = 10.0) -> Any:
        """A call of a stream of messages, from an iterable or an asynchronous one."""
        method = _method(name)
        start = self.channel.stream_unary(
            _path(name),
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=message_class(method.output_type.full_name).FromString,
        )
        return start(messages, timeout=timeout_s, metadata=[*self._metadata, *more])


def _method(name: str) -> Any:
    service, _, method = name.partition(".")
    return SERVICES[f"{PACKAGE}.{service}"].methods_by_name[method]


def _path(name: str) -> str:
    service, _, method = name.partition(".")
    return f"/{PACKAGE}.{service}/{method}"


@dataclass
class Opened:
    """Both doors of one node."""

    served: Served
    grpc: GrpcServer
    client: Client

    def as_(self, token: str, **options: Any) -> Client:
        """Another client."""
        return Client(self.grpc.port, token, **options)


@asynccontextmanager
async def opened(
    node: MemoryNode | None = None,
    config: GrpcConfig | None = None,
    http: HttpConfig | None = None,
    stores: KeptStores | None = None,
    tls: Certificates | None = None,
    **client: Any,
) -> AsyncIterator[Opened]:
    """Both doors, and a client of gRPC's with a good token."""
    async with serving(node, http, stores=stores) as served:
        server = GrpcServer(served.server.api, config or GrpcConfig(port=0), tls=tls)
        await server.start()
        try:
            async with Client(server.port, served.token, **client) as made:
                yield Opened(served, server, made)
        finally:
            served.node.gate.set()
            await server.stop(0.5)


def told(error: aio.AioRpcError) -> tuple[str, str]:
    """gRPC's code and ours, of an error that is complete."""
    trailing = dict(error.trailing_metadata())
    document = orjson.loads(trailing["plexspaces-problem-bin"])
    assert document["code"] == trailing["plexspaces-code"]
    assert error.details()
    assert error.details() == document["detail"][: len(error.details())]
    assert "Traceback" not in str(document)
    return error.code().name, document["code"]


async def refused(call: Any) -> tuple[str, str]:
    """The codes with which a call is refused."""
    try:
        if hasattr(call, "read"):
            while (got := await call.read()) is not grpc.aio.EOF:
                assert isinstance(got, Message)
        else:
            await call
    except aio.AioRpcError as error:
        return told(error)
    raise AssertionError("it was not refused")
