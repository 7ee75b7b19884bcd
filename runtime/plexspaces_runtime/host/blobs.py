"""`plexspaces:actor/blobs`: large bytes by name, one namespace wide, over the boundary as base64.

Files are written and read on another thread; the caller is suspended for as long.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..actors.actor import Actor
from ..actors.guest import Ok
from ..errors import InvalidArgument, LimitExceeded, PayloadTooLarge, Unavailable
from ..scheduler import PENDING
from ..stores.blobs import BlobInfo, Blobs, Reader, Upload
from .wire import error_value

if TYPE_CHECKING:
    from .gate import Host

# The contract's part: what crosses the boundary at once.
PART_BYTES_MAX: Final = 1024 * 1024

_Info = tuple[str, int, str, str, int]


def put(host: Host, actor: Actor, name: str, content: str, content_type: str) -> Any:
    """Keep bytes under a name."""
    blobs = _blobs(host)
    if len(content) > PART_BYTES_MAX * 4 // 3 + 4:
        raise _too_large()
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"the bytes of a blob are base64, and these are not: {error}") from None
    if len(data) > PART_BYTES_MAX:
        raise _too_large()
    try:
        upload = blobs.begin(actor.address.scope, name, content_type, size_bytes=len(data))
    except PayloadTooLarge as error:
        # The edge's word; a guest is told of a limit.
        raise LimitExceeded(error.message, limit="blob_bytes_max", value=error.details["bytes_max"]) from None
    token = actor.wait_token

    def finish() -> _Info:
        try:
            # Killed in the meantime, it has not put anything.
            if not actor.alive or actor.wait_token != token:
                upload.discard()
                raise Unavailable("the actor has ended")
            info, _ = blobs.finish(upload)
        except BaseException:
            upload.discard()
            raise
        return _info(info)

    return _elsewhere(host, actor, lambda: _write(upload, data), finish)


def get(host: Host, actor: Actor, name: str) -> Any:
    """All bytes of a name, where they fit into one part."""
    found = _blobs(host).open(actor.address.scope, name)
    if found is None:
        return None
    info, reader = found
    if info.size_bytes > PART_BYTES_MAX:
        reader.close()
        raise LimitExceeded(
            f"blob {name!r} has {info.size_bytes} bytes, more than the {PART_BYTES_MAX} that cross the boundary at "
            "once: read it in parts with get-range",
            limit="blob_part_bytes_max",
            value=PART_BYTES_MAX,
        )
    return _read(host, actor, reader, 0, info.size_bytes)


def get_range(host: Host, actor: Actor, name: str, offset: int, length: int) -> Any:
    """Some bytes of a name; fewer where it ends before."""
    if length > PART_BYTES_MAX:
        raise LimitExceeded(
            f"{length} bytes are more than the {PART_BYTES_MAX} that cross the boundary at once: read them in parts",
            limit="blob_part_bytes_max",
            value=PART_BYTES_MAX,
        )
    found = _blobs(host).open(actor.address.scope, name)
    if found is None:
        return None
    info, reader = found
    return _read(host, actor, reader, min(offset, info.size_bytes), length)


def stat(host: Host, actor: Actor, name: str) -> _Info | None:
    """What is known of a blob."""
    info = _blobs(host).stat(actor.address.scope, name)
    return _info(info) if info is not None else None


def delete(host: Host, actor: Actor, name: str) -> bool:
    """Delete a blob; False when there was none."""
    return _blobs(host).delete(actor.address.scope, name)


def list_blobs(host: Host, actor: Actor, prefix: str, cursor: str, limit: int) -> list[_Info]:
    """Blobs by prefix; the last name is the cursor of the next page."""
    return [_info(info) for info in _blobs(host).list_blobs(actor.address.scope, prefix, cursor, limit)]


def _blobs(host: Host) -> Blobs:
    if host.blobs is None:
        raise Unavailable("this node keeps no blobs")
    return host.blobs


def _read(host: Host, actor: Actor, reader: Reader, offset: int, length: int) -> Any:
    content = ""

    def work() -> None:
        nonlocal content
        try:
            content = base64.b64encode(reader.read(offset, length)).decode("ascii")
        finally:
            reader.close()

    return _elsewhere(host, actor, work, lambda: content)


def _write(upload: Upload, data: bytes) -> None:
    try:
        upload.write(data)
        upload.seal()
    except BaseException:
        upload.discard()
        raise


def _elsewhere(host: Host, actor: Actor, work: Callable[[], None], finish: Callable[[], Any]) -> Any:
    """Do `work` on another thread and `finish` on the loop; what that returns is the caller's answer."""
    token = actor.wait_token
    future = host.loop.run_in_executor(None, work)

    def done(future: asyncio.Future[None]) -> None:
        answer: Any
        try:
            future.result()
            answer = Ok(finish())
        except Exception as error:  # noqa: BLE001 - the guard around imports: what goes wrong is the guest's answer
            answer = error_value(error)
        host.scheduler.resume(actor, token, answer)

    future.add_done_callback(done)
    return PENDING


def _info(info: BlobInfo) -> _Info:
    return info.name, info.size_bytes, info.content_type, info.sha256, info.modified_ms


def _too_large() -> LimitExceeded:
    return LimitExceeded(
        f"at most {PART_BYTES_MAX} bytes cross the boundary at once: put a larger blob over HTTP",
        limit="blob_part_bytes_max",
        value=PART_BYTES_MAX,
    )
