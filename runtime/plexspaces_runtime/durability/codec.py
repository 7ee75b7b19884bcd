"""How a journal writes down what happened: host calls, their results, messages, and the chain of hashes.

The format is versioned (`FORMAT` in every checkpoint) and documented in docs/durability.md.  A value of the WIT is
JSON where JSON has it; what JSON has not is an object with one key that says what it is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import orjson

from ..actors.envelope import Envelope, Kind
from ..actors.guest import Err, Ok
from ..scope import Address, Caller, Scope

FORMAT: Final = 1
_HASH_BYTES: Final = 16
# A request up to this long is written down as it is, so that a person can read it.
_REQUEST_CHARS_MAX: Final = 240
_REQUEST_CHARS_SHOWN: Final = 160


def chain(before: bytes, number: int, kind: str, body: str) -> bytes:
    """The hash of an entry that follows one with the hash `before`."""
    digest = blake2b(before, digest_size=_HASH_BYTES)
    digest.update(f"{number}\n{kind}\n{body}".encode())
    return digest.digest()


def digest(text: str) -> str:
    """What tells a text from others."""
    return blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()


def checkpoint(
    component: str, at_ms: int, state: str, back_to: int = 0, init: Mapping[str, Any] | None = None
) -> str:
    """What a checkpoint's entry says.

    Args:
        component: hash of the component that wrote the state.
        back_to: the checkpoint whose state this is, where an operator let the actor go back to it.
        init: what the `init` of the instance with this state was given and answered.
    """
    body: dict[str, Any] = {"format": FORMAT, "component": component, "at_ms": at_ms, "state": digest(state)}
    if back_to:
        body["back_to"] = back_to
    if init is not None:
        body["init"] = init
    return orjson.dumps(body).decode()


def request_text(arguments: tuple[Any, ...]) -> str:
    """A host call's arguments, shortened to what tells them from others."""
    text = orjson.dumps(arguments, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    if len(text) <= _REQUEST_CHARS_MAX:
        return text
    return f"{text[:_REQUEST_CHARS_SHOWN]}... {digest(text)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Ok):
        return {"ok": value.value}
    if isinstance(value, Err):
        return {"err": value.value}
    return repr(value)


def encode(value: Any) -> Any:
    """A host call's result, as JSON values."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Ok):
        return {"ok": encode(value.value)}
    if isinstance(value, Err):
        return {"err": encode(value.value)}
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(each) for each in value]}
    if isinstance(value, Mapping):
        return {"record": {name: encode(each) for name, each in value.items()}}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    raise TypeError(f"a {type(value).__name__} cannot be written into a journal")


def decode(value: Any) -> Any:
    """The reverse of `encode`."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "ok":
            return Ok(decode(content))
        case "err":
            return Err(decode(content))
        case "tuple":
            return tuple(decode(each) for each in content)
        case "record":
            return {name: decode(each) for name, each in content.items()}
        case "bytes":
            return base64.b64decode(content)
    raise ValueError(f"a journal has a value of an unknown kind, {kind!r}: it was written by a later version")


def message(envelope: Envelope) -> dict[str, Any]:
    """A message, as JSON values; what is empty is left out."""
    written: dict[str, Any] = {
        "id": envelope.id, "kind": envelope.kind.value, "op": envelope.op, "payload": envelope.payload
    }  # fmt: skip
    if envelope.sender is not None:
        written["sender"] = envelope.sender.text
    if envelope.caller is not None:
        written["caller"] = caller(envelope.caller)
    if envelope.trace:
        written["trace"] = envelope.trace
    if envelope.causation_id:
        written["cause"] = envelope.causation_id
    if envelope.repeatable:
        written["repeatable"] = True
    if envelope.accepted:
        written["accepted"] = envelope.accepted
    return written


def envelope(scope: Scope, written: Mapping[str, Any], accepted: int = 0) -> Envelope:
    """The message again, for an actor of `scope`; nobody waits for its reply."""
    sender = written.get("sender")
    return Envelope(
        written["id"],
        Kind(written["kind"]),
        written["op"],
        written["payload"],
        Address.parse(scope, sender) if sender is not None else None,
        read_caller(written.get("caller")),
        0,
        written.get("trace", ""),
        written.get("cause", ""),
        repeatable=written.get("repeatable", False),
        accepted=accepted or written.get("accepted", 0),
    )


def caller(known: Caller | None) -> dict[str, Any] | None:
    """Who started the work, as JSON values."""
    if known is None:
        return None
    written = {"subject": known.subject, "roles": sorted(known.roles), "session": known.session}
    return written | {"scopes": sorted(known.scopes)} if known.scopes else written


def read_caller(written: Mapping[str, Any] | None) -> Caller | None:
    """The reverse of `caller`."""
    if written is None:
        return None
    return Caller(
        written["subject"], frozenset(written["roles"]), written["session"], frozenset(written.get("scopes", ()))
    )
