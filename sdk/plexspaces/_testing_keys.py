"""The test node's stores of single things by name: values, locks and blobs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ._testing_base import (
    Quotas,
    VirtualClock,
    Waiter,
    check_between,
    contract_error,
    over,
    page_size,
    parse_json,
    size_of,
)

_KEY_BYTES_MAX: Final = 1_024
_VALUE_TTL_MS_MAX: Final = 10 * 365 * 24 * 3_600 * 1_000
_VALUE_OVERHEAD_BYTES: Final = 128
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_LOCK_NAME_BYTES_MAX: Final = 256
_LOCK_MS_MAX: Final = 24 * 3_600 * 1_000
_LOCK_OVERHEAD_BYTES: Final = 160
_BLOB_NAME_BYTES_MAX: Final = 512
_BLOB_PART_BYTES_MAX: Final = 1 << 20
_BLOB_OVERHEAD_BYTES: Final = 256
_BLOB_NAME: Final = re.compile(r"[^\x00-\x1f/\x7f]{1,256}(?:/[^\x00-\x1f/\x7f]{1,256})*")
_CONTENT_TYPE: Final = re.compile(r"[\w!#$&^.+-]{1,63}/[\w!#$&^.+-]{1,63}(?:; ?[\x20-\x7e]{1,120})?", re.ASCII)


# -- key-value ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Value:
    text: str
    expires_ms: int  # wall clock; 0: never


class KeyValues:
    """Values by owner and key."""

    def __init__(self, clock: VirtualClock, limits: Mapping[str, float], quotas: Quotas) -> None:
        self._clock = clock
        self._limits = limits
        self._quotas = quotas
        self._values: dict[str, dict[str, _Value]] = {}

    def get(self, owner: str, key: str) -> str | None:
        """See the contract."""
        found = self._living(owner, key)
        return None if found is None else found.text

    def put(self, owner: str, key: str, value: str, ttl_ms: int | None) -> None:
        """See the contract."""
        self._check_key(key)
        self._check_value(value)
        expires_ms = 0
        if ttl_ms is not None:
            check_between("ttl_ms", ttl_ms, 1, _VALUE_TTL_MS_MAX)
            expires_ms = self._clock.now_ms + ttl_ms
        self._set(owner, key, _Value(value, expires_ms))

    def delete(self, owner: str, key: str) -> bool:
        """See the contract."""
        there = self._living(owner, key) is not None
        self._forget(owner, key)
        return there

    def list_keys(self, owner: str, prefix: str, cursor: str, limit: int) -> tuple[list[str], str]:
        """A page of keys, and the cursor of the next."""
        count = page_size(limit)
        keys = [key for key in self.living(owner) if key.startswith(prefix) and key > cursor]
        return keys[:count], keys[count - 1] if len(keys) > count else ""

    def compare_and_set(self, owner: str, key: str, expected: str | None, value: str | None) -> bool:
        """See the contract."""
        found = self._living(owner, key)
        if expected is not None:
            self._check_value(expected)
        if found is None or expected is None:
            if found is not None or expected is not None:
                return False
        elif _canonical(found.text) != _canonical(expected):
            return False
        if value is None:
            self._forget(owner, key)
        else:
            self._check_value(value)
            self._set(owner, key, _Value(value, 0))
        return True

    def increment(self, owner: str, key: str, delta: int) -> int:
        """See the contract.  The value's time to live goes on."""
        found = self._living(owner, key)
        before = 0 if found is None else json.loads(found.text)
        if type(before) is not int:
            raise contract_error("conflict", f"the value of {key[:80]!r} is no whole number", key=key)
        after: int = before + delta
        if not _INT_MIN <= after <= _INT_MAX:
            raise contract_error("conflict", f"the value of {key[:80]!r} would leave the range of 64 bits", key=key)
        self._set(owner, key, _Value(str(after), 0 if found is None else found.expires_ms))
        return after

    def living(self, owner: str) -> dict[str, Any]:
        """What an owner has, by key in ascending order."""
        values = self._values.get(owner, {})
        return {key: json.loads(values[key].text) for key in sorted(values) if not self._is_over(values[key])}

    def _living(self, owner: str, key: str) -> _Value | None:
        self._check_key(key)
        found = self._values.get(owner, {}).get(key)
        return None if found is None or self._is_over(found) else found

    def _is_over(self, value: _Value) -> bool:
        return 0 < value.expires_ms <= self._clock.now_ms

    def _set(self, owner: str, key: str, value: _Value) -> None:
        before = self._values.get(owner, {}).get(key)
        growth = _value_bytes(key, value) - (0 if before is None else _value_bytes(key, before))
        self._quotas.check_bytes(growth)
        if before is None:
            self._quotas.check("keys_per_tenant_max")
            self._quotas.add("keys_per_tenant_max")
        self._quotas.add_bytes(growth)
        self._values.setdefault(owner, {})[key] = value
        if value.expires_ms:
            self._clock.call_at_ms(value.expires_ms, lambda: self._expire(owner, key, value))

    def _expire(self, owner: str, key: str, value: _Value) -> None:
        if self._values.get(owner, {}).get(key) is value:
            self._forget(owner, key)

    def _forget(self, owner: str, key: str) -> None:
        before = self._values.get(owner, {}).pop(key, None)
        if before is not None:
            self._quotas.add("keys_per_tenant_max", -1)
            self._quotas.add_bytes(-_value_bytes(key, before))

    def _check_key(self, key: str) -> None:
        if not 1 <= size_of(key) <= _KEY_BYTES_MAX or "\x00" in key:
            raise contract_error(
                "invalid-argument", f"key {key[:80]!r} is not possible: 1 to {_KEY_BYTES_MAX} bytes, none of them 0"
            )

    def _check_value(self, text: str) -> None:
        most = self._limits["value_bytes_max"]
        if size_of(text) > most:
            raise over("value_bytes_max", most, f"the value has {size_of(text)} bytes, use a blob")
        parse_json("the value", text)


def _canonical(text: str) -> str:
    # As text again, because in Python True == 1 == 1.0.
    return json.dumps(json.loads(text), sort_keys=True)


def _value_bytes(key: str, value: _Value) -> int:
    return _VALUE_OVERHEAD_BYTES + size_of(key) + size_of(value.text)


# -- locks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """Who has a lock: the lease's id, its fencing token, and until when (wall clock)."""

    lock_id: str
    token: int
    expires_ms: int


class LockWaiter(Waiter):
    """A handler that waits for a lock."""

    __slots__ = ("name", "ttl_ms")

    def __init__(self, owner: object, deadline_ns: int, name: str, ttl_ms: int) -> None:
        super().__init__(owner, deadline_ns)
        self.name = name
        self.ttl_ms = ttl_ms


class Locks:
    """Leases by name.  They end with their time, not with their holder."""

    def __init__(self, clock: VirtualClock, quotas: Quotas) -> None:
        self._clock = clock
        self._quotas = quotas
        self._last: dict[str, Held] = {}
        self._tokens: dict[str, int] = {}
        self._waiting: dict[str, dict[LockWaiter, None]] = {}
        self._ids = 0

    def acquire(self, name: str, ttl_ms: int, wait_ms: int) -> Held | None:
        """A lease, or None while another has one."""
        if not 1 <= size_of(name) <= _LOCK_NAME_BYTES_MAX or "\x00" in name:
            raise contract_error(
                "invalid-argument",
                f"lock name {name[:80]!r} is not possible: 1 to {_LOCK_NAME_BYTES_MAX} bytes, none of them 0",
            )
        check_between("ttl_ms", ttl_ms, 1, _LOCK_MS_MAX)
        check_between("wait_ms", wait_ms, 0, _LOCK_MS_MAX)
        return None if self.holder(name) is not None else self._take(name, ttl_ms)

    def wait(self, owner: object, name: str, ttl_ms: int, deadline_ns: int) -> LockWaiter:
        """Wait in line."""
        waiter = LockWaiter(owner, deadline_ns, name, ttl_ms)
        self._waiting.setdefault(name, {})[waiter] = None
        return waiter

    def give_up(self, waiter: LockWaiter) -> None:
        """Wait no more."""
        self._waiting.get(waiter.name, {}).pop(waiter, None)

    def renew(self, name: str, lock_id: str, ttl_ms: int) -> Held:
        """See the contract."""
        check_between("ttl_ms", ttl_ms, 1, _LOCK_MS_MAX)
        held = self.holder(name)
        if held is None or held.lock_id != lock_id:
            raise contract_error("conflict", f"the lock {name[:80]!r} is no longer held by {lock_id[:80]!r}", lock=name)
        return self._hold(name, Held(lock_id, held.token, self._clock.now_ms + ttl_ms))

    def release(self, name: str, lock_id: str) -> bool:
        """See the contract."""
        held = self.holder(name)
        if held is None or held.lock_id != lock_id:
            return False
        del self._last[name]
        self._pass_on(name)
        return True

    def holder(self, name: str) -> Held | None:
        """Who has a lock now."""
        held = self._last.get(name)
        return held if held is not None and held.expires_ms > self._clock.now_ms else None

    def forget(self, owner: object) -> None:
        """Its actor has ended: it waits for nothing, and what it holds it holds until its time is over."""
        for waiting in self._waiting.values():
            for waiter in [each for each in waiting if each.owner is owner]:
                del waiting[waiter]

    def _pass_on(self, name: str) -> None:
        waiting = self._waiting.get(name, {})
        while waiting and self.holder(name) is None:
            waiter = next(iter(waiting))
            del waiting[waiter]
            if waiter.deadline_ns > self._clock.elapsed_ns:
                waiter.answer(self._take(name, waiter.ttl_ms))

    def _take(self, name: str, ttl_ms: int) -> Held:
        if name not in self._tokens:
            size = _LOCK_OVERHEAD_BYTES + size_of(name)
            self._quotas.check_bytes(size)
            self._quotas.add_bytes(size)
        token = self._tokens[name] = self._tokens.get(name, 0) + 1
        self._ids += 1
        return self._hold(name, Held(f"lock-{self._ids}", token, self._clock.now_ms + ttl_ms))

    def _hold(self, name: str, held: Held) -> Held:
        self._last[name] = held
        self._clock.call_at_ms(held.expires_ms, lambda: self._pass_on(name))
        return held


# -- blobs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob and what is known of it."""

    name: str
    data: bytes
    content_type: str
    sha256: str
    modified_ms: int


class Blobs:
    """Bytes by name."""

    def __init__(self, clock: VirtualClock, limits: Mapping[str, float], quotas: Quotas) -> None:
        self._clock = clock
        self._limits = limits
        self._quotas = quotas
        self._blobs: dict[str, Blob] = {}

    def put(self, name: str, content: str, content_type: str) -> Blob:
        """See the contract."""
        try:
            data = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise contract_error(
                "invalid-argument", f"the bytes of a blob are base64, and these are not: {error}"
            ) from None
        self._check_part(len(data), "put a larger blob over HTTP")
        return self.keep(name, data, content_type)

    def keep(self, name: str, data: bytes, content_type: str) -> Blob:
        """`put` of any size."""
        self._check_name(name)
        content_type = content_type or "application/octet-stream"
        if not _CONTENT_TYPE.fullmatch(content_type):
            raise contract_error("invalid-argument", f"{content_type[:80]!r} is no content type: write text/plain, say")
        most = self._limits["blob_bytes_max"]
        if len(data) > most:
            raise over("blob_bytes_max", most, f"the blob has {len(data)} bytes")
        before = self._blobs.get(name)
        if before is None and len(self._blobs) >= self._limits["blobs_per_tenant_max"]:
            raise over(
                "blobs_per_tenant_max", self._limits["blobs_per_tenant_max"], "there are as many blobs as may be"
            )
        blob = Blob(name, data, content_type, hashlib.sha256(data).hexdigest(), self._clock.now_ms)
        growth = _blob_bytes(blob) - (0 if before is None else _blob_bytes(before))
        self._quotas.check_bytes(growth)
        self._quotas.add_bytes(growth)
        self._blobs[name] = blob
        return blob

    def get(self, name: str) -> str | None:
        """See the contract."""
        blob = self.stat(name)
        if blob is None:
            return None
        self._check_part(len(blob.data), "read it in parts with get-range")
        return base64.b64encode(blob.data).decode("ascii")

    def get_range(self, name: str, offset: int, length: int) -> str | None:
        """See the contract."""
        self._check_part(length, "read them in parts")
        blob = self.stat(name)
        return None if blob is None else base64.b64encode(blob.data[offset : offset + length]).decode("ascii")

    def stat(self, name: str) -> Blob | None:
        """See the contract."""
        self._check_name(name)
        return self._blobs.get(name)

    def delete(self, name: str) -> bool:
        """See the contract."""
        blob = self.stat(name)
        if blob is None:
            return False
        del self._blobs[name]
        self._quotas.add_bytes(-_blob_bytes(blob))
        return True

    def list_blobs(self, prefix: str, cursor: str, limit: int) -> list[Blob]:
        """See the contract."""
        count = page_size(limit)
        names = sorted(self._blobs)
        after = names[bisect_right(names, cursor) :]
        return [self._blobs[name] for name in after if name.startswith(prefix)][:count]

    def _check_name(self, name: str) -> None:
        parts = name.split("/")
        if not _BLOB_NAME.fullmatch(name) or size_of(name) > _BLOB_NAME_BYTES_MAX or "." in parts or ".." in parts:
            raise contract_error(
                "invalid-argument",
                f"{name[:80]!r} is no name of a blob: 1 to {_BLOB_NAME_BYTES_MAX} bytes without control characters, "
                "in parts separated by '/', none of them empty, '.' or '..'",
            )

    def _check_part(self, size: int, instead: str) -> None:
        if size > _BLOB_PART_BYTES_MAX:
            raise over(
                "blob_part_bytes_max",
                _BLOB_PART_BYTES_MAX,
                f"{size} bytes are more than the {_BLOB_PART_BYTES_MAX} that cross the boundary at once, {instead}",
            )


def _blob_bytes(blob: Blob) -> int:
    return len(blob.data) + size_of(blob.name) + _BLOB_OVERHEAD_BYTES
