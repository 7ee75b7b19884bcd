"""Files that only the node's own user may read: keys and tokens.  Written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import InvalidArgument

_BYTES_MAX = 1 << 16


def write_private(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file of mode 0600 that is never seen half-written.  Without `replace`, the first of several wins."""
    # O_EXCL, a name of its own and mode 0600: what `mkstemp` promises.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(draft, path)
        else:
            try:
                # Unlike a rename, a link never takes another's place.
                os.link(draft, path, follow_symlinks=False)
            except FileExistsError:
                return
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        draft.unlink(missing_ok=True)


def read_private(path: Path) -> bytes:
    """The content of such a file, at most 64 KiB.

    Raises:
        InvalidArgument: it cannot be read, or others can read it too; the message says what to do.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None
    with open(descriptor, "rb") as file:
        check_private(path, os.fstat(file.fileno()), stat.S_ISREG)
        return file.read(_BYTES_MAX)


def check_private(path: Path, status: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    """Refuse a file or folder that others can get at.

    Args:
        status: what `stat` says of it.
        is_kind: what it should be, such as `stat.S_ISREG`.

    Raises:
        InvalidArgument
    """
    if not is_kind(status.st_mode):
        raise InvalidArgument(f"{path} is not what it should be (a link, or of another kind): remove it")
    if status.st_uid not in (os.geteuid(), 0):
        raise InvalidArgument(f"{path} belongs to user {status.st_uid}: whoever owns the key owns the node")
    if status.st_mode & 0o077:
        want = "0700" if stat.S_ISDIR(status.st_mode) else "0600"
        raise InvalidArgument(
            f"{path} can be read or changed by others (mode {stat.S_IMODE(status.st_mode):04o}): chmod {want} {path}",
            path=str(path),
        )
