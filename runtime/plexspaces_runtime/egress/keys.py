"""The node's master key, and how values are sealed: AES-256-GCM under keys that are never used twice.

A master key wraps the tenants' keys, and those seal values; so a new master key touches no value.  Each sealing derives
a key of its own from a random salt, because random nonces alone repeat too early for a key that lives as long as a
tenant (NIST SP 800-38D allows 2^32 of them).

A rotation has to change a file and a database together, and may be killed between any two steps.  The new key is
written beside the old one, then the database goes over in one transaction, then the new file takes the old one's place.
Which of the two files is right is decided by the database alone, when the node starts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..config import SecretsConfig
from ..errors import InvalidArgument, Unavailable
from ..ids import Ids
from ..stores.keyfiles import check_private, read_private, write_private

KEY_BYTES: Final = 32
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_FILE: Final = "secrets.key"
_NEXT: Final = ".next"


class Broken(Exception):
    """What was sealed cannot be opened: another key, another place, or not as it was written."""


def seal(key: bytes, place: bytes, plain: bytes, ids: Ids) -> bytes:
    """Encrypt something that belongs to one place.

    Args:
        place: what it is, see `bound`; it opens nowhere else.
    """
    salt, nonce = ids.random_bytes(_SALT_BYTES), ids.random_bytes(_NONCE_BYTES)
    return salt + nonce + AESGCM(_derived(key, salt)).encrypt(nonce, plain, place)


def unseal(key: bytes, place: bytes, sealed: bytes) -> bytes:
    """What was sealed.

    Raises:
        Broken
    """
    salt, nonce = sealed[:_SALT_BYTES], sealed[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
    try:
        return AESGCM(_derived(key, salt)).decrypt(nonce, sealed[_SALT_BYTES + _NONCE_BYTES :], place)
    except (InvalidTag, ValueError):
        raise Broken from None


def bound(*parts: str) -> bytes:
    """Several texts as one; no other texts make the same."""
    return b"".join(b"%d:%b" % (len(raw), raw) for raw in (part.encode() for part in parts))


def _derived(key: bytes, salt: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, b"plexspaces value").derive(key)


@dataclass(frozen=True, slots=True)
class MasterKey:
    """What wraps the tenants' keys.

    Attributes:
        fingerprint: tells it from others, and nothing about it.
    """

    key: bytes = field(repr=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(b"plexspaces master key\0" + self.key).hexdigest()
        object.__setattr__(self, "fingerprint", digest[:16])

    @classmethod
    def parse(cls, text: str, where: str) -> MasterKey:
        """Read base64 of 32 bytes.

        Raises:
            InvalidArgument: it is something else.  The message does not show it.
        """
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise InvalidArgument(
                f"{where} holds no key: it is to be base64 of {KEY_BYTES} bytes, as `openssl rand -base64 32` gives it"
            )
        return cls(key)

    def text(self) -> bytes:
        """As `parse` reads it."""
        return base64.b64encode(self.key) + b"\n"


class KeyFile:
    """The file with the master key, and the one beside it while a new key takes its place.

    Args:
        path: of the key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = path.with_name(path.name + _NEXT)

    @property
    def exists(self) -> bool:
        """Whether there is a key, or one that was to take its place."""
        return self.path.exists() or self._next.exists()

    def take(self, in_use: str | None) -> MasterKey | None:
        """The key that is in use; finishes or takes back a rotation that was interrupted.

        Args:
            in_use: the fingerprint that the database names; None while it holds nothing.

        Returns:
            None if there is no file.

        Raises:
            InvalidArgument: a file is readable by others, or holds no key.
        """
        if self._next.exists():
            if in_use is not None and self._read(self._next).fingerprint == in_use:
                self.finish()
            else:
                self._next.unlink()
        return self._read(self.path) if self.path.exists() else None

    def create(self, key: MasterKey) -> None:
        """Write the first key."""
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(folder, os.stat(folder, follow_symlinks=False), stat.S_ISDIR)
        write_private(self.path, key.text(), replace=False)

    def prepare(self, key: MasterKey) -> None:
        """Write a key that is to take the place of the present one, beside it."""
        write_private(self._next, key.text(), replace=True)

    def finish(self) -> None:
        """Let the key that was prepared take the place of the other: the database names it now."""
        os.replace(self._next, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @staticmethod
    def _read(path: Path) -> MasterKey:
        return MasterKey.parse(read_private(path).decode("ascii", "replace"), str(path))


@dataclass(frozen=True, slots=True)
class Keys:
    """What a node starts with.

    Attributes:
        present: the key that wraps what is wrapped from now on.
        before: the one that wraps what there is, where that is another.
        file: where the present one is; None if it comes from the environment.
    """

    present: MasterKey
    before: MasterKey | None = None
    file: KeyFile | None = None


def open_keys(config: SecretsConfig, data_dir: Path, in_use: str | None, ids: Ids) -> Keys:
    """Find the master key, or make one for a node that keeps no secrets yet.

    Args:
        in_use: the fingerprint of the key that the database was written under; None while it holds nothing.

    Raises:
        InvalidArgument: a key is none, or its file can be read by others.
        Unavailable: what is kept was written under another key.  Nothing has been changed.
    """
    file = KeyFile(config.key_file or data_dir / "keys" / _FILE)
    of_file = file.take(in_use) if config.key is None or file.exists else None
    before = [] if of_file is None else [of_file]
    if config.previous_key is not None:
        before.append(MasterKey.parse(config.previous_key, "PLEXSPACES_SECRETS_PREVIOUS_KEY"))
    if config.key is not None:
        present = MasterKey.parse(config.key, "PLEXSPACES_SECRETS_KEY")
        if in_use in (None, present.fingerprint):
            return Keys(present)
        return Keys(present, _named(in_use, before, "PLEXSPACES_SECRETS_KEY"))
    if of_file is not None:
        if in_use in (None, of_file.fingerprint):
            return Keys(of_file, file=file)
        return Keys(of_file, _named(in_use, before, str(file.path)), file)
    former = None if in_use is None else _named(in_use, before, None, str(file.path))
    present = MasterKey(ids.random_bytes(KEY_BYTES))
    file.create(present)
    # Of several nodes that begin at once on one file, one was the first.
    first = file.take(in_use)
    assert first is not None, "the key was written"
    return Keys(first, former, file)


def _named(in_use: str | None, known: Iterable[MasterKey], where: str | None, missing: str = "") -> MasterKey:
    for key in known:
        if key.fingerprint == in_use:
            return key
    found = f"{where} holds another" if where is not None else f"{missing} is not there"
    raise Unavailable(
        f"the node's secrets were written under the master key {in_use}, and {found}: restore that key file, set "
        "PLEXSPACES_SECRETS_KEY to that key, or PLEXSPACES_SECRETS_PREVIOUS_KEY to go over to another one. Nothing has "
        "been changed. If the key is lost, so are the secrets: `plexspaces secret reset` forgets them",
        fingerprint=in_use,
    )
