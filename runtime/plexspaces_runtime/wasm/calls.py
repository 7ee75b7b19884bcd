"""Argument frames for the exports of our world, and the lifting of their results.

`handle` is called for every message, so its frame is laid out by hand: the envelope is a record of strings and one
enum.  All strings are copied into one buffer, and what changes from call to call are two machine words a field, size
and pointer.  Names of fields and of enum cases are written once.
"""

from __future__ import annotations

import ctypes
from ctypes import addressof, sizeof
from typing import Any, Protocol

from ..actors.guest import Export
from .values import Borrow, Lift, Val, borrower, lifter
from .wit import Enum, Package, Record, Type

_WORD = sizeof(ctypes.c_size_t)
_VAL_BYTES = sizeof(Val)
_UNION_OFFSET = Val.of.offset
# A record's entry in the C API: the field's name (size, pointer), then its value.
_NAME_BYTES = 2 * _WORD
_ENTRY_BYTES = _NAME_BYTES + _VAL_BYTES
# Ordinary messages fit; a longer one gets a buffer of its own for this one call.
_BUFFER_BYTES = 2048
_FRAMES_KEPT = 256

_ENVELOPE_FIELDS = ("id", "kind", "op", "payload", "sender", "context")

_STRING = 12
_RECORD = 14
_ENUM = 17


class Frame(Protocol):
    """Arguments of one call, alive until it is released."""

    address: int
    count: int


class HandleFrame:
    """The arguments of `handle`: one record value, laid out once and filled again for each message.

    Args:
        envelope: the WIT's record.
    """

    __slots__ = (
        "_buffer",
        "_buffer_address",
        "_cases",
        "_entries",
        "_enum_word",
        "_large",
        "_string_words",
        "_value",
        "_view",
        "_words",
        "address",
        "count",
    )

    def __init__(self, envelope: Record) -> None:
        fields = envelope.fields
        assert [name for name, _ in fields] == list(_ENVELOPE_FIELDS), "the WIT's envelope has changed: so must `fill`"
        self._entries = ctypes.create_string_buffer(_ENTRY_BYTES * len(fields))
        # Writes of whole machine words into the entries; everything else of them is constant.
        self._words = memoryview(self._entries).cast("B").cast("Q")
        self._buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
        self._buffer_address = addressof(self._buffer)
        self._view = memoryview(self._buffer).cast("B")
        self._large: Any = None
        self._cases: dict[str, tuple[int, int]] = {}
        self._enum_word = 0
        string_words = []
        for number, (name, type_) in enumerate(fields):
            entry = number * _ENTRY_BYTES
            self._words[entry // _WORD] = len(name)
            self._words[entry // _WORD + 1] = _keep(name)
            word = (entry + _NAME_BYTES + _UNION_OFFSET) // _WORD
            kind = ctypes.c_uint8.from_buffer(self._entries, entry + _NAME_BYTES)
            if isinstance(type_, Enum):
                kind.value = _ENUM
                self._enum_word = word
                self._cases = {case: (len(case), _keep(case)) for case in type_.cases}
            else:
                kind.value = _STRING
                string_words.append(word)
        self._string_words = tuple(string_words)
        self._value = Val()
        self._value.kind = _RECORD
        self._value.of.record.size = len(fields)
        record_pointer = addressof(self._value) + _UNION_OFFSET + type(self._value.of.record).data.offset
        ctypes.c_void_p.from_address(record_pointer).value = addressof(self._entries)
        self.address = addressof(self._value)
        self.count = 1

    def fill(self, message_id: str, kind: str, op: str, payload: str, sender: str, context: str) -> None:
        """Set the fields for one call.  Written out, because this is done for every message."""
        joined = f"{message_id}{op}{payload}{sender}{context}"
        # JSON can hold lone surrogates, a WIT string cannot.
        raw = joined.encode("utf-8", "replace")
        total = len(raw)
        if total == len(joined):
            id_bytes, op_bytes, payload_bytes, sender_bytes = len(message_id), len(op), len(payload), len(sender)
        else:
            id_bytes, op_bytes, payload_bytes, sender_bytes = (
                len(text.encode("utf-8", "replace")) for text in (message_id, op, payload, sender)
            )
        if total > _BUFFER_BYTES:
            self._large = ctypes.create_string_buffer(raw, total)
            pointer = addressof(self._large)
        else:
            self._view[:total] = raw
            pointer = self._buffer_address
        end = pointer + total
        words = self._words
        id_word, op_word, payload_word, sender_word, context_word = self._string_words
        words[id_word] = id_bytes
        words[id_word + 1] = pointer
        pointer += id_bytes
        words[op_word] = op_bytes
        words[op_word + 1] = pointer
        pointer += op_bytes
        words[payload_word] = payload_bytes
        words[payload_word + 1] = pointer
        pointer += payload_bytes
        words[sender_word] = sender_bytes
        words[sender_word + 1] = pointer
        pointer += sender_bytes
        words[context_word] = end - pointer
        words[context_word + 1] = pointer
        word = self._enum_word
        words[word], words[word + 1] = self._cases[kind]

    def clear(self) -> None:
        """Let go of what only this call needed."""
        self._large = None


class _GeneralFrame:
    """Arguments of an export that is called rarely."""

    __slots__ = ("_keep", "_values", "address", "count")

    def __init__(self, borrowers: list[Borrow], arguments: tuple[Any, ...]) -> None:
        self._values = (Val * max(1, len(borrowers)))()
        self._keep = [
            borrow(value, argument) for borrow, value, argument in zip(borrowers, self._values, arguments, strict=False)
        ]
        self.address = addressof(self._values)
        self.count = len(borrowers)


class Calls:
    """Makes frames and lifts results for the exports of a world.

    Args:
        package: our WIT.
    """

    def __init__(self, package: Package) -> None:
        exports = package.world.exports
        self._borrowers: dict[Export, list[Borrow]] = {
            export: [borrower(type_) for _, type_ in exports[export.value].params]
            for export in Export
            if export is not Export.INSTANTIATE
        }
        self._lifters: dict[Export, Lift] = {
            export: lifter(_result(exports[export.value].result))
            for export in Export
            if export is not Export.INSTANTIATE
        }
        envelope = exports[Export.HANDLE.value].params[0][1]
        assert isinstance(envelope, Record)
        self._envelope = envelope
        self._free: list[HandleFrame] = []

    def fill(self, export: Export, arguments: tuple[Any, ...]) -> Frame:
        """A frame with the arguments; to be released when the call is over."""
        if export is Export.HANDLE:
            frame = self._free.pop() if self._free else HandleFrame(self._envelope)
            frame.fill(*arguments)
            return frame
        return _GeneralFrame(self._borrowers[export], arguments)

    def release(self, frame: Frame) -> None:
        """The call is over."""
        if type(frame) is HandleFrame and len(self._free) < _FRAMES_KEPT:
            frame.clear()
            self._free.append(frame)

    def lift(self, export: Export, value: Val) -> Any:
        """The result of a call of `export`."""
        return self._lifters[export](value)


def _result(type_: Type | None) -> Type:
    assert type_ is not None, "every export of our world has a result"
    return type_


_kept: dict[str, Any] = {}


def _keep(text: str) -> int:
    """The address of `text` as bytes that live as long as the process: names of the WIT, a few dozen."""
    buffer = _kept.get(text)
    if buffer is None:
        buffer = _kept[text] = ctypes.create_string_buffer(text.encode())
    return addressof(buffer)
