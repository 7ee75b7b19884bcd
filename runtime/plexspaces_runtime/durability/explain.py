"""What a journal tells a person: the messages of an actor one by one, and whether the journal is what was written.

Pure: entries come in, records come out.  Who reads them from where is the business of `journals.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ..actors.envelope import Kind
from ..stores.journal import Entry, Row
from . import codec
from .durable import Damaged, check_link, check_state

KINDS: Final = frozenset({"checkpoint", "message", "handled", "effect", "begun", "end"})


@dataclass(frozen=True, slots=True)
class Call:
    """One host call of a message.

    Attributes:
        number: of its entry.
        function: `interface.function` of the WIT.
        request: the arguments, a JSON list as text; the beginning and a hash of one that is long.
        result: `{"ok": ...}` or `{"err": ...}` where the function may fail, else the value; as the journal has it.
        began_ms: when a call that may wait for long was begun; 0 for others.
    """

    number: int
    function: str
    request: str
    result: Any
    began_ms: int = 0


@dataclass(slots=True)
class Message:
    """One attempt to handle one message.

    Attributes:
        first, last: numbers of its first and its last entry.
        at_ms: when its turn came, or when it ended if it called nobody.
        sender: the actor that sent it, "" for one from outside.
        subject: who started the work, "" if that is not known.
        cause: the message that caused this one, "" for one from outside.
        kept: nobody waits for its reply, and it was in the inbox until it was done with.
        attempt: 1 for the first.
        reused: so many results of an earlier attempt were given again before `calls`.
        waits_since_ms: when the call was begun for whose answer it waits; 0 if it waits for none.
        end: "reply", "refusal", "crash", "later" (its answer comes with a later message), "done" (nobody asked), or ""
            while it is in flight.
        outcome: the reply, JSON; of a refusal and a crash what the caller was told.
        again: it crashed, and is to be tried again.
    """

    first: int
    last: int
    at_ms: int
    id: str
    kind: str
    op: str
    payload: Any
    sender: str
    subject: str
    cause: str
    kept: bool
    attempt: int
    reused: int
    calls: list[Call] = field(default_factory=list)
    waits_since_ms: int = 0
    end: str = ""
    outcome: Any = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state was kept: a recovery begins with the last of these.

    Attributes:
        component: hash of the component that wrote it.
        back_to: an operator let the actor go back to the state of that checkpoint; 0 if not.
    """

    number: int
    at_ms: int
    format: int
    component: str
    back_to: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An entry that nobody can read, because it was changed or a later version wrote it."""

    number: int
    kind: str


Told = Message | Checkpoint | Unreadable


def tell(entries: Iterable[Entry]) -> Iterator[Told]:
    """What happened, in the order in which it ended; what is in flight comes last.

    Entries whose beginning is not among these are left out.  What is told is what is written: whether that is what was
    written once is the business of `Walk`.
    """
    teller = _Teller()
    for entry in entries:
        try:
            told = teller.hear(entry)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            told = Unreadable(entry.number, entry.kind)
        if told is not None:
            yield told
    if teller.message is not None:
        yield teller.message


class _Teller:
    """Puts a message's entries together."""

    __slots__ = ("_begun", "message")

    def __init__(self) -> None:
        # The one in flight, and by index when its calls were begun that may wait.
        self.message: Message | None = None
        self._begun: dict[int, int] = {}

    def hear(self, entry: Entry) -> Told | None:
        """The next entry; what it brings to an end."""
        number, body, message = entry.number, orjson.loads(entry.body), self.message
        match entry.kind:
            case "checkpoint":
                return Checkpoint(number, body["at_ms"], body["format"], body["component"], body.get("back_to", 0))
            case "message":
                self.message, self._begun = _message(number, body), {}
            case "handled":
                self.message = None
                told = _message(number, body)
                _end(told, number, body["end"])
                return told
            case "begun" if message is not None:
                message.last = number
                self._begun[body["i"]] = message.waits_since_ms = body["at_ms"]
            case "effect" if message is not None:
                message.last = number
                message.waits_since_ms = 0
                message.calls.append(Call(number, body["f"], body["q"], body["r"], self._begun.get(body["i"], 0)))
            case "end" if message is not None:
                self.message = None
                _end(message, number, body)
                return message
            case unknown if unknown not in KINDS:
                return Unreadable(number, unknown)
        return None


def _message(number: int, body: dict[str, Any]) -> Message:
    written = body["message"]
    return Message(
        first=number,
        last=number,
        at_ms=body["at_ms"],
        id=written["id"],
        kind=written["kind"],
        op=written["op"],
        payload=parsed(written["payload"]),
        sender=written.get("sender", ""),
        subject=(written.get("caller") or {}).get("subject", ""),
        cause=written.get("cause", ""),
        kept=bool(written.get("accepted", 0)),
        attempt=body.get("attempt", 1),
        reused=body.get("reused", 0),
    )


def _end(message: Message, number: int, end: dict[str, Any]) -> None:
    message.last = number
    message.waits_since_ms = 0
    if "reply" in end:
        message.end, message.outcome = "reply", parsed(end["reply"])
    elif "refusal" in end:
        message.end, message.outcome = "refusal", end["refusal"]
    elif "crash" in end:
        message.end, message.again = "crash", bool(end.get("retry"))
        message.outcome = {"exit": end["crash"], "message": end["message"]}
    else:
        message.end = "later" if message.kind == Kind.CALL.value else "done"


def parsed(text: str) -> Any:
    """JSON text as its value; what is none stays text, and so does what nests too deep to be written again."""
    try:
        value = orjson.loads(text)
        # JSON can be read four times as deep as it can be written; the answer that tells of it nests some levels more.
        orjson.dumps([[[[[[[[value]]]]]]]])
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return text
    return value


# -- is it what was written ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a walk along a journal's chain of hashes has found.

    Attributes:
        entries: how many were looked at.
        first, last: numbers of the first and the last of them; 0 where there are none.
        number: of the first that is not as it was written; 0 if all are.
        problem: what is wrong with it, "" if nothing is.
    """

    entries: int
    first: int
    last: int
    number: int = 0
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether the journal is what was written."""
        return not self.problem


class Walk:
    """Checks a journal's entries one after the other: the whole chain, from what was compacted away to the last.

    Args:
        row: the actor's, which says where the chain begins and what it held when the last message was finished.
    """

    __slots__ = ("_bad", "_before", "_entries", "_first", "_hash", "_last", "_number", "_problem", "_row", "_seen")

    def __init__(self, row: Row) -> None:
        self._row = row
        self._number, self._hash = row.base, row.base_hash
        self._entries = self._first = self._last = 0
        # Of the first that is not right: its number and the hash before it, which tell whether a later one is it.
        self._bad = 0
        self._before = b""
        self._problem = ""
        self._seen = {"checkpoint": False, "head": row.head == row.base}

    def look(self, entry: Entry) -> None:
        """The next one."""
        self._entries += 1
        self._first = self._first or entry.number
        self._last = entry.number
        if self._bad:
            self._look_behind(entry)
            return
        try:
            check_link(self._number, self._hash, entry)
        except Damaged as damage:
            self._bad, self._before = damage.number, self._hash
            self._problem = self._broken(damage.number, entry)
            return
        try:
            self._look_at(entry)
        except Damaged as damage:
            self._bad, self._problem = damage.number, str(damage)
            return
        self._number, self._hash = entry.number, entry.hash

    def _broken(self, number: int, entry: Entry) -> str:
        """What is wrong where `entry` is not the one called `number`."""
        if entry.number != number:
            self._look_behind(entry)
            return self._problem or f"entry {number} is missing"
        # If the next one follows what is written here, it is the hash that was changed.
        self._hash = codec.chain(self._hash, number, entry.kind, entry.body)
        self._number = number
        if number == self._row.base + 1:
            return f"the content of entry {number} was changed, or what the actor's row says of the one before it"
        return f"the content of entry {number} was changed"

    def _look_at(self, entry: Entry) -> None:
        row, number = self._row, entry.number
        if entry.kind not in KINDS:
            raise Damaged(number, f"entry {number} is of the unknown kind {entry.kind!r}: a later version wrote it")
        if number == row.checkpoint:
            if entry.kind != "checkpoint":
                raise Damaged(number, f"entry {number} is no checkpoint, and the actor's row says it is the last one")
            check_state(row, entry)
            if orjson.loads(entry.body)["component"] != row.component:
                raise Damaged(number, f"checkpoint {number} was written by another component than the actor's row says")
            self._seen["checkpoint"] = True
        if number == row.head:
            if entry.hash != row.hash:
                raise Damaged(
                    number, f"entry {number} is not the one that the actor's row tells of: entries were replaced"
                )
            self._seen["head"] = True

    def _look_behind(self, entry: Entry) -> None:
        if codec.chain(self._before, self._bad, entry.kind, entry.body) == entry.hash:
            self._problem = f"entry {self._bad} stands where entry {entry.number} belongs: their order was changed"
        elif (
            entry.number == self._number + 1 == self._bad + 1
            and codec.chain(self._hash, entry.number, entry.kind, entry.body) == entry.hash
        ):
            self._problem = f"the hash of entry {self._bad} was changed; its content is what was written"

    def verdict(self) -> Verdict:
        """There are no more."""
        row = self._row
        number, problem = self._bad, self._problem
        if not problem and row.head > self._number:
            number, problem = self._number + 1, f"entry {self._number + 1} is missing, and all behind it"
        elif not problem and row.checkpoint <= row.base and row.state is not None:
            number, problem = row.base + 1, "the actor has a state, and its row says that there is no checkpoint"
        elif not problem and row.checkpoint > row.base and not self._seen["checkpoint"]:
            number, problem = row.checkpoint, f"checkpoint {row.checkpoint} is missing"
        elif not problem and not self._seen["head"]:
            number, problem = row.head, f"entry {row.head}, the last of a finished message, is not in the journal"
        return Verdict(self._entries, self._first, self._last, number, problem)


def verify(row: Row, entries: Iterable[Entry]) -> Verdict:
    """Walk along a whole journal."""
    walk = Walk(row)
    for entry in entries:
        walk.look(entry)
    return walk.verdict()
