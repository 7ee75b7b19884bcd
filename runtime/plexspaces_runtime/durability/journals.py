"""What operators ask of the journals: which there are, what they tell, whether they are sound, and the ways on.

`Reader` only reads, and needs no more than the rows: it serves a running node and the files of one that is stopped
alike.  `Journals` also changes: dead letters go back into the inbox, and an actor that cannot be made again as it was
is let go back to its last checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

import orjson

from ..actors.envelope import Kind
from ..actors.registry import Registry
from ..errors import Conflict, MailboxFull, NotFound, PlexSpacesError
from ..scope import Address, Scope
from ..stores.journal import DeadMessage, Entry, JournalTable, Row, Summary
from . import codec
from .durability import Durability
from .durable import Damaged, History, Turn, check_link, check_state, read
from .explain import Message, Told, Verdict, Walk, tell

# A page is read on the loop.
_ENTRIES_AT_ONCE: Final = 500
_PAGE_ENTRIES_MAX: Final = 20_000
ASIDE: Final = "journal_aside"


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a journal.

    Attributes:
        told: what happened, oldest first.
        next: behind which entry the next page begins; 0 if there is none.
    """

    told: tuple[Told, ...]
    next: int


class Reader:
    """Reads journals.

    Args:
        table: the rows.
    """

    def __init__(self, table: JournalTable) -> None:
        self._table = table

    def list(self, tenant: str, namespace: str | None = None, *, after: str = "", limit: int = 100) -> list[Summary]:
        """A tenant's durable actors, by `namespace/actor`.

        Args:
            after: the `namespace/actor` behind which to begin.
            limit: at most so many.
        """
        return self._table.summaries(tenant, namespace, after=after, limit=limit)

    def history(self, address: Address, *, after: int = 0, limit: int = 100) -> Page:
        """What happened to an actor, as far back as its journal is kept.

        Args:
            after: the number of the entry behind which to begin, as a page before gave it in `next`.
            limit: at most so many messages and checkpoints.

        Raises:
            NotFound: there is no such durable actor.
        """
        row = self._row(address)
        told: list[Told] = []
        for record in tell(self._entries(row, max(after, row.base), _PAGE_ENTRIES_MAX)):
            told.append(record)
            if len(told) > limit:
                break
        if len(told) <= limit:
            return Page(tuple(told), 0)
        # A checkpoint may stand in the middle of a message, which then comes behind it.
        page = told[:limit]
        return Page(tuple(page), page[-1].last if isinstance(page[-1], Message) else page[-1].number)

    async def verify(self, address: Address) -> Verdict:
        """Walk along an actor's journal.

        Raises:
            NotFound: there is no such durable actor.
        """
        while True:
            row = self._row(address)
            walk = Walk(row)
            for number, entry in enumerate(self._entries(row, row.base)):
                walk.look(entry)
                if number % _ENTRIES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            verdict, now = walk.verdict(), self._row(address)
            # What was compacted or finished meanwhile is not missing.
            if verdict.ok or (row.base, row.head, row.checkpoint) == (now.base, now.head, now.checkpoint):
                return verdict

    def _row(self, address: Address) -> Row:
        row = self._table.find(address)
        if row is None:
            raise NotFound(
                f"there is no journal of actor {address.text!r} in namespace {address.scope.namespace!r}: it is not "
                "durable, or has not been started yet",
                actor=address.text,
            )
        return row

    def _entries(self, row: Row, after: int, entries_max: int | None = None) -> Iterator[Entry]:
        count = 0
        while entries_max is None or count < entries_max:
            found = self._table.entries(row.id, after, _ENTRIES_AT_ONCE)
            yield from found
            if len(found) < _ENTRIES_AT_ONCE:
                return
            count += len(found)
            after = found[-1].number


class Remaining(Enum):
    """What becomes of messages that were recorded after the checkpoint to which an actor goes back."""

    DEAD_LETTER = "dead-letter"
    REDELIVER = "redeliver"


@dataclass(frozen=True, slots=True)
class Moved:
    """A message that a recovery has put somewhere else."""

    id: str
    op: str
    end: str
    dead_letter: str = ""


@dataclass(slots=True)
class Recovery:
    """What a recovery by an operator has done.

    Attributes:
        checkpoint: number of the checkpoint whose state the actor has.
        recorded: number of the entry that says so.
        damage: what was wrong with the journal, "" if nothing was.
        redelivered: messages that wait in the inbox again, as if they had never been handled.
        dead_letters: messages that are kept as dead letters.
        set_aside: numbers of the entries that could not be read and are kept in the table `journal_aside`.
        waiting: messages in the inbox now, those redelivered among them.
        started: the actor is up again.
        problem: why it is not.
    """

    checkpoint: int
    recorded: int
    damage: str
    redelivered: list[Moved] = field(default_factory=list)
    dead_letters: list[Moved] = field(default_factory=list)
    set_aside: list[int] = field(default_factory=list)
    waiting: int = 0
    started: bool = False
    problem: str = ""


class Journals(Reader):
    """Reads and changes the journals of a running node.

    Args:
        registry: finds the living, and brings virtual actors to life.
        flushed: waits until everything written so far is on disk.
        stop: ends an actor and waits until it is gone; one that is gone already is no error.
        start: lets it live again, and first its application where that has failed.
    """

    def __init__(
        self,
        durability: Durability,
        *,
        registry: Registry,
        flushed: Callable[[], Awaitable[None]],
        stop: Callable[[Address], Awaitable[None]],
        start: Callable[[Address], Awaitable[None]],
    ) -> None:
        super().__init__(durability.table)
        self._durability = durability
        self._registry = registry
        self._flushed = flushed
        self._stop = stop
        self._start = start
        # Dead letters whose end may not be on disk yet.
        self._taken: set[int] = set()

    async def settle(self) -> None:
        """Wait until what has happened so far can be read.

        Raises:
            Unavailable: the disk refuses.
        """
        await self._flushed()

    # -- dead letters -------------------------------------------------------------------------------------

    async def dead_letters(
        self, scope: Scope, source: str | None = None, *, after: int = 0, limit: int = 100
    ) -> list[DeadMessage]:
        """Messages of durable actors that were given up, in the order they died.

        Args:
            source: only those of this actor, `type` or `type/key`.
            after: the id behind which to begin.
            limit: at most so many.
        """
        await self._flushed()
        found = self._table.dead(scope.tenant, scope.namespace, source=source, after=after, limit=limit)
        return [each for each in found if each.id not in self._taken]

    async def retry(self, scope: Scope, dead_id: int) -> None:
        """Let a dead letter wait in its actor's inbox again, as if it had just come.

        It is the same message, with the same id: what it sends carries the ids that it carried, so that a durable
        receiver that handled such a message gives the recorded reply.

        Raises:
            NotFound: there is no such dead letter.
            MailboxFull
        """
        dead = await self._dead(scope, dead_id)
        durability, table, address = self._durability, self._table, dead.address
        row = self._row(address)
        if dead.message.get("repeatable"):
            # Else it would be one that was answered: with its crash.
            durability.forget_reply(address, row.id, dead.message["id"])
            await self._flushed()
            if dead_id in self._taken:
                raise _no_such_letter(scope, dead_id)
        actor = self._registry.find(address.scope, address.text)
        if actor is not None and actor.mailbox.full:
            raise MailboxFull(
                f"the mailbox of actor {address.text!r} is full ({len(actor.mailbox)} messages wait): try again later",
                actor=address.text,
                messages=len(actor.mailbox),
            )
        envelope = codec.envelope(address.scope, dead.message)
        envelope.accepted = durability.next_accepted()
        table.accept(row.id, envelope.accepted, orjson.dumps(codec.message(envelope)).decode())
        self._take(dead)
        if actor is None:
            # A virtual actor lives from now on, and finds it in the inbox; any other finds it when it is started.
            await self._flushed()
            self._registry.resolve(address.scope, address.text)
        elif actor.mailbox.offer(envelope):
            durability.wake(actor)

    async def drop(self, scope: Scope, dead_id: int) -> None:
        """Delete a dead letter.

        Raises:
            NotFound: there is no such dead letter.
        """
        self._take(await self._dead(scope, dead_id))

    async def _dead(self, scope: Scope, dead_id: int) -> DeadMessage:
        await self._flushed()
        dead = None if dead_id in self._taken else self._table.find_dead(scope, dead_id)
        if dead is None:
            raise _no_such_letter(scope, dead_id)
        return dead

    def _take(self, dead: DeadMessage) -> None:
        self._table.forget_dead(dead.id)
        self._taken.add(dead.id)

        def settled(error: Exception | None) -> None:
            if error is None:
                self._taken.discard(dead.id)

        self._table.settled(settled)

    # -- the way out --------------------------------------------------------------------------------------

    async def recover(self, address: Address, remaining: Remaining, *, accept_state: bool = False) -> Recovery:
        """Let an actor that cannot be made again as it was go back to its last checkpoint.

        It is stopped, if it lives; the messages that were recorded after the checkpoint become what `remaining` says,
        and it is started with the code that its type has now.  Nothing is dropped: an asked message, whose asker has
        been answered, is a dead letter in either case.  The journal goes on, with an entry that says what was done.

        Args:
            accept_state: go on even if the state is not known to be what was written.

        Raises:
            NotFound: there is no such durable actor.
            Conflict: it has no checkpoint, or the state of that is not what was written.
        """
        self._row(address)
        durability = self._durability
        await self._stop(address)
        durability.repair(address)
        try:
            # Somebody may have started it again.
            await self._stop(address)
            await self._flushed()
            done = self._go_back(address, remaining, accept_state)
        finally:
            durability.repaired(address)
        await self._flushed()
        try:
            await self._start(address)
            done.started = self._registry.resolve(address.scope, address.text) is not None
        except PlexSpacesError as error:
            done.problem = error.message
        return done

    def _go_back(self, address: Address, remaining: Remaining, accept_state: bool) -> Recovery:
        """One unit: nobody writes this actor's rows meanwhile, and the stream takes what follows together."""
        table, durability = self._table, self._durability
        row = self._row(address)
        if row.state is None:
            raise Conflict(
                f"actor {address.text!r} has no checkpoint: it begins anew whenever it is started", actor=address.text
            )
        entries = table.entries(row.id, row.base)
        good, bad, history, damage = _readable(row, entries, address)
        state_problem = _state_problem(row, good)
        if state_problem and not accept_state:
            raise Conflict(
                f"{state_problem}: restore the data directory from a backup, or say that the state is to be taken as "
                "it is (accept_state, --accept-state)",
                actor=address.text,
            )
        now_ms = durability.now_ms()
        done = Recovery(row.checkpoint, 0, damage or state_problem)
        inbox = {each.number: each for each in table.inbox(row.id)}
        again: list[Turn] = []
        for turn in _turns(history):
            kept = turn.envelope.accepted in inbox and not turn.closed
            if remaining is Remaining.REDELIVER and turn.envelope.accepted:
                done.redelivered.append(_moved(turn))
                if kept:
                    table.attempted(row.id, turn.envelope.accepted, 0)
                else:
                    again.append(turn)
                    table.forget_reply(row.id, turn.envelope.id)
                continue
            if kept:
                table.forget_accepted(row.id, inbox.pop(turn.envelope.accepted).number)
            dead_id = table.bury(
                row.id,
                orjson.dumps(codec.message(turn.envelope)).decode(),
                f"not replayed: an operator let the actor go back to checkpoint {row.checkpoint}; {_ended(turn)}",
                1,
                now_ms,
            )
            done.dead_letters.append(_moved(turn, f"actor-{dead_id}"))
        # Before those that wait.
        number = min((0, *inbox)) - len(again)
        for turn in again:
            table.accept(row.id, number, orjson.dumps(codec.message(turn.envelope)).decode())
            number += 1
        done.waiting = len(inbox) + len(again)
        if bad:
            table.set_aside(row.id, bad, now_ms)
            done.set_aside = [each.number for each in bad]
        self._record(row, good, bad, now_ms)
        done.recorded = row.head
        return done

    def _record(self, row: Row, good: list[Entry], bad: list[Entry], now_ms: int) -> None:
        """Another checkpoint, of the same state, behind what there is."""
        assert row.state is not None
        if good:
            last, hash_ = good[-1].number, good[-1].hash
            row.base, row.base_hash = (row.base, row.base_hash) if good[0].number == row.base + 1 else _behind(good[0])
        else:
            # Behind everything there was, so that no number stands for two entries.
            last, hash_ = max((row.checkpoint, row.head, *(each.number for each in bad))), b""
            row.base, row.base_hash = last, hash_
        body = codec.checkpoint(row.component, now_ms, row.state, back_to=row.checkpoint)
        row.head = row.checkpoint = last + 1
        row.hash = codec.chain(hash_, row.head, "checkpoint", body)
        row.open_from = row.flying = 0
        self._table.checkpoint(row, body, cut=None)


def _no_such_letter(scope: Scope, dead_id: int) -> NotFound:
    return NotFound(f"there is no dead letter 'actor-{dead_id}' in namespace {scope.namespace!r}")


def _readable(row: Row, entries: list[Entry], address: Address) -> tuple[list[Entry], list[Entry], History, str]:
    """Split a journal into what is as it was written and what is not.

    Returns:
        The entries that can be read, the others, what the first tell, and what is wrong.
    """
    walk = Walk(replace(row, state=None))
    for entry in entries:
        walk.look(entry)
    verdict = walk.verdict()
    nothing = History(row.base, row.base_hash)
    if verdict.ok:
        return entries, [], read(replace(row, state=None), entries, (row.base, row.base_hash), address), ""
    # What is before the checkpoint is only for people to read: the chain may begin there.
    start = next((n for n, entry in enumerate(entries) if entry.number == row.checkpoint), None)
    if start is None or entries[start].kind != "checkpoint":
        return [], entries, nothing, verdict.problem
    first = 0 if verdict.number > row.checkpoint else start
    number, hash_ = entries[start].number, entries[start].hash
    end = start + 1
    for entry in entries[end:]:
        try:
            check_link(number, hash_, entry)
        except Damaged:
            break
        number, hash_, end = entry.number, entry.hash, end + 1
    good = entries[first:end]
    if first == start and not _stands_alone(good):
        good, end = good[:1], start + 1
    before = (row.base, row.base_hash) if first == 0 else (good[0].number, good[0].hash)
    history = read(replace(row, head=0, state=None), good if first == 0 else good[1:], before, address)
    return good, [*entries[:first], *entries[end:]], history, verdict.problem


def _stands_alone(entries: list[Entry]) -> bool:
    """Whether what these tell needs nothing of what was before."""
    is_open = False
    failed: set[str] = set()
    for entry in entries:
        body = orjson.loads(entry.body)
        match entry.kind:
            case "message" | "handled":
                id_ = body["message"]["id"]
                if body.get("reused") and id_ not in failed:
                    return False
                failed.add(id_)
                is_open = entry.kind == "message"
            case "effect" | "begun" | "end":
                if not is_open:
                    return False
                is_open = entry.kind != "end"
    return True


def _state_problem(row: Row, good: list[Entry]) -> str:
    checkpoint = next((entry for entry in good if entry.number == row.checkpoint), None)
    if checkpoint is None:
        return f"the entry of checkpoint {row.checkpoint} is gone, and nothing tells what its state was"
    try:
        check_state(row, checkpoint)
    except Damaged as damage:
        return str(damage)
    return ""


def _turns(history: History) -> list[Turn]:
    """The messages that are not part of the checkpoint's state, in the order in which they came."""
    flying = [history.open] if history.open is not None else []
    waiting = [turn for turn in history.again.values() if not flying or turn.envelope.id != flying[0].envelope.id]
    return [*history.done, *flying, *waiting]


def _behind(entry: Entry) -> tuple[int, bytes]:
    return entry.number, entry.hash


def _ended(turn: Turn) -> str:
    if not turn.closed:
        return "it had not ended"
    (how,) = turn.end.keys() & {"reply", "refusal", "deferred"}
    return {
        "reply": f"it had been answered with {str(turn.end.get('reply'))[:200]}",
        "refusal": "it had been refused",
        "deferred": "it had left its answer for later" if turn.envelope.kind is Kind.CALL else "it had been done",
    }[how]


def _moved(turn: Turn, dead_letter: str = "") -> Moved:
    return Moved(turn.envelope.id, turn.envelope.op, _ended(turn), dead_letter)
