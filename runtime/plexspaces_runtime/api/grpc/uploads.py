"""A client's stream of pieces as the body of a form: what an upload over HTTP sends, without the detour of a file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, MutableMapping
from typing import Any

from google.protobuf.message import Message

from ...errors import InvalidArgument
from ...scope import check_name
from ..config import HttpConfig
from ..faults import RequestTimeout


def content_type(boundary: str) -> bytes:
    """Of the form."""
    return f"multipart/form-data; boundary={boundary}".encode()


async def deploy_form(messages: AsyncIterator[Any], boundary: str, *, check: bool) -> AsyncGenerator[bytes, None]:
    """The form of `Deploy` and `Check`.

    Raises:
        InvalidArgument: it is not one `head`, pieces of a component, and `end`.
    """
    first = await anext(messages, None)
    if first is None or first.WhichOneof("part") != "head":
        raise InvalidArgument("the first message of the stream is to be `head`")
    texts = {"namespace": first.head.namespace or "default", "actor_type": first.head.actor_type}
    if first.head.config_json:
        texts["config"] = first.head.config_json
    if check:
        texts["check"] = "true"
    # The first delimiter alone has no line break before it.
    yield b"".join(_text(boundary, *each) for each in texts.items()).removeprefix(b"\r\n")
    began = False
    async for message in messages:
        match message.WhichOneof("part"):
            case "wasm":
                yield message.wasm if began else _file(boundary, "wasm") + message.wasm
                began = True
            case "end" if began:
                yield _close(boundary)
                return
            case _:
                raise InvalidArgument("after `head`, the stream is pieces of the component, each a `wasm`, then `end`")
    raise _broken_off()


async def application_form(messages: AsyncIterator[Any], boundary: str) -> AsyncGenerator[bytes, None]:
    """The form of `DeployApplication`.

    Raises:
        InvalidArgument: it is not one `config`, pieces of components with names, and `end`.
    """
    first = await anext(messages, None)
    if first is None or first.WhichOneof("part") != "config":
        raise InvalidArgument("the first message of the stream is to be `config`, the text of app-config.toml")
    yield _text(boundary, "config", first.config).removeprefix(b"\r\n")
    name = ""
    async for message in messages:
        match message.WhichOneof("part"):
            case "component":
                if not name or message.component.name != name:
                    # It becomes a header of the form: a name cannot end one.
                    name = check_name("component", message.component.name)
                    yield _file(boundary, name)
                yield message.component.wasm
            case "end":
                yield _close(boundary)
                return
            case _:
                raise InvalidArgument("after `config`, the stream is `component` by `component`, and then `end`")
    raise _broken_off()


def _broken_off() -> InvalidArgument:
    # Also a client that went away: its stream looks as if it had been ended.
    return InvalidArgument("the stream ends without `end`: it is not complete")


def receiver(pieces: AsyncGenerator[bytes, None], config: HttpConfig) -> Callable[[], Any]:
    """The pieces as ASGI's `receive`.  A client has as long for them as it would have for a request's body.

    Raises, when it is called:
        RequestTimeout: it takes longer.
    """
    loop = asyncio.get_running_loop()
    waited_s = 0.0
    received = 0

    async def receive() -> MutableMapping[str, Any]:
        nonlocal waited_s, received
        began = loop.time()
        allowed_s = config.body_timeout_s + received / config.body_bytes_per_s_min
        try:
            async with asyncio.timeout(max(0.0, allowed_s - waited_s)):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise RequestTimeout("the stream came too slowly, or stopped before its end") from None
        # What the node does with a piece meanwhile is not the client's time.
        waited_s += loop.time() - began
        if piece is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        received += len(piece)
        return {"type": "http.request", "body": piece, "more_body": True}

    return receive


async def leave(pieces: AsyncIterator[bytes], linger_s: float) -> None:
    """Let a client that was refused send the rest: some would not hear why while they still send."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(linger_s):
            async for _ in pieces:
                pass


async def parsed(pieces: AsyncIterator[bytes], parse: Callable[[bytes], Message]) -> AsyncGenerator[Message, None]:
    """The messages of a stream."""
    async for piece in pieces:
        yield parse(piece)


def _text(boundary: str, name: str, text: str) -> bytes:
    return f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode()


def _file(boundary: str, name: str) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
    return f"\r\n--{boundary}\r\n{head}Content-Type: application/wasm\r\n\r\n".encode()


def _close(boundary: str) -> bytes:
    return f"\r\n--{boundary}--\r\n".encode()
