"""One durable actor: what it records while it runs, and what it is made from again after a crash.

A message is recorded as one entry if it calls nobody; else as an entry before its first host call, one for each call
that has answered, and one for how it ended.  What a message has changed in memory when its actor crashes is gone; what
it has caused is not: if it is tried again, the results that are recorded are given again, and nothing fires twice.

While the actor is made again, or a message goes on, host calls are answered from the journal as long as it has them.
A guest that asks for something else than it did before is stopped: nothing is guessed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from ..actors import exits
from ..actors.actor import Actor, Step
from ..actors.envelope import Envelope, Kind, Outcome
from ..actors.exits import Exit, Reason
from ..actors.facets import MISS, Diverged, Keeper
from ..actors.guest import Export, Failure, HostRequest, Result, Trapped
from ..actors.mailbox import Mailbox
from ..actors.timers import Timer
from ..errors import HandlerCrashed, Unavailable
from ..events import DeadLetter, StateNotKept
from ..host.wire import error_value
from ..scheduler.scheduler import refused
from ..scope import Address
from ..stores.journal import Entry, Row
from . import codec

if TYPE_CHECKING:
    from .durability import Durability, DurabilityConfig

_NS_PER_MS: Final = 1_000_000
# Calls that may wait for days: when they began is recorded, so that what is left of the time is known later.
_LONG: Final = frozenset({"clock.sleep-ns", "workflow.sleep-ms", "workflow.promise-await", "workflow.next-signal"})
# Calls that do something outside before their result is recorded: that they were begun is recorded, with what was asked
# for, so that after a restart the same is asked for again, or nothing.
_OUTSIDE: Final = frozenset({"http.fetch", "http.fetch-stream"})
# Answers from outside that say: try again.
_AGAIN_STATUSES: Final = frozenset({408, 429})
# What may be asked anew while another version's messages are given again: it changes nothing, and nobody hears of it.
_HARMLESS: Final = frozenset({
    "clock.now-ns", "clock.monotonic-ns", "random.random-hex", "random.random-u64", "lifecycle.self-id",
    "lifecycle.trap-exit", "logging.log", "workflow.cancelled",
})  # fmt: skip
_STEPS: Final = frozenset({"workflow.step-begin", "workflow.step-succeeded", "workflow.step-failed"})
_BACKOFF_S_MAX: Final = 5.0


class Damaged(Exception):
    """A journal is not what was written, from the entry `number` on."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(problem)
        self.number = number


@dataclass(slots=True)
class Effect:
    """One host call that has answered."""

    index: int
    function: str
    request: str
    result: Any


@dataclass(slots=True)
class Turn:
    """One message, as far as it has come.

    Attributes:
        start: number of its first entry; 0 while it has none.
        effects: what is recorded and is to be given again.
        position: how much of that has been given.
        index: of the next host call.
        parts: messages sent by the host call under way.
        begun: by index, the wall clock in milliseconds at which a call that waits was begun.
        asked: by index, function and request of a call that does something outside, which was begun.
        step: of a workflow, the step under way: its `step-begin`, and the index of that of its first attempt and of
            the present one.
        again: it is another attempt, and has no entries of its own yet.
        reused: how many of the effects are of an earlier attempt.
        closed: its end is recorded too: it may ask for nothing new.
        initial: it is no message but `init`, whose calls are kept with the checkpoints.
        lenient: it is another version's, and may ask for something else: what harms nobody is answered anew, the rest
            refused.
        end: how it ended, of one that is closed.
    """

    envelope: Envelope
    start: int = 0
    effects: list[Effect] = field(default_factory=list)
    position: int = 0
    index: int = 0
    parts: int = 0
    function: str = ""
    request: str = ""
    begun: dict[int, int] = field(default_factory=dict)
    asked: dict[int, tuple[str, str]] = field(default_factory=dict)
    step: tuple[str, int, int] = ("", 0, 0)
    again: bool = False
    reused: int = 0
    closed: bool = False
    initial: bool = False
    lenient: bool = False
    end: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class History:
    """What a journal tells.

    Attributes:
        number, hash: of the last entry.
        done: messages since the checkpoint, to be replayed.
        open: what was in flight.
        again: by message, what of a failed attempt is to be given again.
        cuts: number and hash of the checkpoints there are.
        init: of the instance that had the checkpoint's state, None if it was not kept.
    """

    number: int
    hash: bytes
    init: dict[str, Any] | None = None
    done: deque[Turn] = field(default_factory=deque)
    open: Turn | None = None
    again: dict[str, Turn] = field(default_factory=dict)
    cuts: deque[tuple[int, bytes]] = field(default_factory=deque)


def read(row: Row, entries: list[Entry], before: tuple[int, bytes], address: Address) -> History:
    """What the entries tell; `before` is number and hash of the one before the first.

    Raises:
        Damaged: one is missing, was changed or stands in the wrong place.
    """
    history = History(*before)
    turn: Turn | None = None
    for entry in entries:
        check_link(history.number, history.hash, entry)
        history.number, history.hash = entry.number, entry.hash
        body = orjson.loads(entry.body)
        match entry.kind:
            case "checkpoint":
                if entry.number == row.checkpoint:
                    check_state(row, entry)
                    history.init = body.get("init")
                # No place to cut while a message is in flight or is to be tried again: its beginning is needed.
                if turn is None and not history.again:
                    history.cuts.append((entry.number, entry.hash))
            case "message" | "handled":
                turn = _begun(body, entry.number, history, address)
                if entry.kind == "handled":
                    _ended(turn, body["end"], entry.number, row, history)
                    turn = None
            case "effect":
                assert turn is not None
                turn.effects.append(Effect(body["i"], body["f"], body["q"], body["r"]))
            case "begun":
                assert turn is not None
                turn.begun[body["i"]] = body["at_ms"]
                if "f" in body:
                    turn.asked[body["i"]] = (body["f"], body["q"])
            case "end":
                assert turn is not None
                _ended(turn, body, entry.number, row, history)
                turn = None
            case unknown:
                raise Damaged(
                    entry.number, f"entry {entry.number} is of the unknown kind {unknown!r}: written by a later version"
                )
    history.open = turn
    if row.head > history.number:
        raise Damaged(history.number + 1, f"entry {history.number + 1} is missing")
    return history


def check_link(number: int, hash_: bytes, entry: Entry) -> None:
    """Refuse an entry that does not follow the one with this number and hash.

    Raises:
        Damaged
    """
    if entry.number != number + 1:
        raise Damaged(number + 1, f"entry {number + 1} is missing")
    if codec.chain(hash_, entry.number, entry.kind, entry.body) != entry.hash:
        raise Damaged(entry.number, f"entry {entry.number} is not what was written, or the one before is not")


def check_state(row: Row, checkpoint: Entry) -> None:
    """Refuse a state that is not the one of which the checkpoint's entry tells.

    Raises:
        Damaged
    """
    told = orjson.loads(checkpoint.body)
    if row.state is not None and told["state"] != codec.digest(row.state):
        raise Damaged(checkpoint.number, f"the state of checkpoint {checkpoint.number} is not what was written")


def _begun(body: dict[str, Any], number: int, history: History, address: Address) -> Turn:
    turn = Turn(codec.envelope(address.scope, body["message"]), number)
    if reused := body.get("reused", 0):
        turn.reused = reused
        # Of a message that was done before the checkpoint, earlier attempts may be older than what is read: nobody
        # needs what they have got.
        if (before := history.again.get(turn.envelope.id)) is not None:
            turn.start = before.start
            turn.effects = before.effects[:reused]
            turn.begun = dict(before.begun)
    return turn


def _ended(turn: Turn, end: dict[str, Any], number: int, row: Row, history: History) -> None:
    if "crash" not in end:
        turn.closed, turn.end = True, end
        history.again.pop(turn.envelope.id, None)
        if number > row.checkpoint:
            history.done.append(turn)
    elif end.get("retry"):
        history.again[turn.envelope.id] = _for_another_attempt(turn)
    else:
        history.again.pop(turn.envelope.id, None)


def _for_another_attempt(turn: Turn) -> Turn:
    """What another attempt is given again: all but the errors at its end, which may be why this one failed.

    An error after which something else was done is given again, or that would be done twice.  To a workflow's run
    errors are what it decides by, and what it has taken, a signal say, is not there any more.
    """
    good = len(turn.effects)
    while turn.envelope.kind is not Kind.RUN and good and _is_error(turn.effects[good - 1]):
        good -= 1
    effects = turn.effects[:good]
    begun = {index: at_ms for index, at_ms in turn.begun.items() if any(each.index == index for each in effects)}
    return Turn(turn.envelope, turn.start, effects, begun=begun, again=True, reused=len(effects))


def _is_error(effect: Effect) -> bool:
    if not isinstance(effect.result, dict):
        return False
    if effect.function in _OUTSIDE and "ok" in effect.result:
        status = effect.result["ok"]["tuple"][0]
        return status in _AGAIN_STATUSES or status >= 500
    return "err" in effect.result


def shortened(effects: list[Effect]) -> list[Effect]:
    """The same without the inside of workflow steps that are finished: their beginning has the result."""
    short: list[Effect] = []
    open_steps: list[tuple[str, int]] = []
    for effect in effects:
        short.append(effect)
        if effect.function == "workflow.step-begin" and effect.result == {"ok": None}:
            open_steps.append((_step_name(effect), len(short) - 1))
        elif effect.function == "workflow.step-succeeded" and open_steps and effect.result == {"ok": None}:
            name, at = open_steps[-1]
            value = _step_value(effect)
            if name == _step_name(effect) and value is not None:
                open_steps.pop()
                begin = short[at]
                # With the index of its end: what comes next must not be taken for what was inside.
                short[at:] = [Effect(effect.index, begin.function, begin.request, {"ok": value})]
    return short


def _step_name(effect: Effect) -> str:
    try:
        return str(orjson.loads(effect.request)[0])
    except orjson.JSONDecodeError:
        # A request that was too long to be kept.
        return ""


def _step_value(effect: Effect) -> str | None:
    try:
        return str(orjson.loads(effect.request)[1])
    except orjson.JSONDecodeError:
        return None


class Durable(Keeper):
    """The facet of one durable name."""

    __slots__ = (
        "__weakref__",
        "_again",
        "_attempts",
        "_config",
        "_cuts",
        "_here",
        "_history",
        "_init",
        "_kept_init",
        "_kept_state",
        "_messages",
        "_number",
        "_replies",
        "_restored",
        "_retrying",
        "_returned",
        "_row",
        "_timers",
        "_turn",
        "actor",
        "address",
        "durability",
    )

    def __init__(self, durability: Durability, address: Address, config: DurabilityConfig) -> None:
        self.durability = durability
        self.address = address
        self.actor: Actor | None = None
        self._config = config
        self._row: Row | None = None
        self._number = 0
        self._turn: Turn | None = None
        # What is to be given again to messages that were begun before, by their ids.
        self._again: dict[str, Turn] = {}
        self._attempts: dict[int, int] = {}
        # Messages that are here and may be sent again, by id.
        self._here: dict[str, Envelope] = {}
        # Replies that may not be on disk yet.
        self._replies: dict[str, str | None] = {}
        self._returned: list[Envelope] = []
        self._history: deque[Turn] = deque()
        self._cuts: deque[tuple[int, bytes]] = deque()
        # What `init` of this instance was given and answered, and what that of the checkpoint's was.
        self._init: dict[str, Any] | None = None
        self._kept_init: dict[str, Any] | None = None
        self._kept_state = ""
        # Since the last checkpoint.
        self._messages = 0
        # The state that it was made again from, where nothing came after that.
        self._restored: tuple[str, str] | None = None
        # The last message is to be tried again.
        self._retrying = False
        # That are to ring.
        self._timers: set[str] = set()

    # -- coming in ----------------------------------------------------------------------------------------

    def adopt(self, mailbox: Mailbox[Envelope, Any]) -> None:
        mailbox.on_enter = self._entered

    def admit(self, envelope: Envelope) -> None:
        if reason := self.durability.table.refusing:
            raise Unavailable(reason, retry_after_ms=1_000)

    def divert(self, envelope: Envelope) -> bool:
        if not envelope.repeatable:
            return False
        if self._answered_before(envelope):
            return True
        here = self._here.get(envelope.id)
        if here is None:
            return False
        if envelope.pending is not None:
            here.pending = self.durability.asks.both(here.pending, envelope.pending)
        return True

    def _answered_before(self, envelope: Envelope) -> bool:
        """Give the recorded reply to a message that was handled."""
        if envelope.id in self._replies:
            outcome = self._replies[envelope.id]
        else:
            known = self.durability.table.reply(self._id(), envelope.id)
            if known is None:
                return False
            (outcome,) = known
        pending = envelope.pending
        if pending is not None:
            if outcome is not None:
                # Not on the spot: whoever asks is not waiting yet.
                self.durability.soon(partial(self.durability.asks.end, pending, _outcome(outcome)))
            elif self.actor is not None:
                self.actor.deferred[envelope.id] = pending
        return True

    def _entered(self, envelope: Envelope) -> None:
        """A message is in the mailbox."""
        if envelope.repeatable:
            self._here[envelope.id] = envelope
        if not envelope.accepted and (
            envelope.kind is Kind.RUN or (envelope.pending is None and envelope.claim is None)
        ):
            self.accept(envelope)

    def accept(self, envelope: Envelope) -> None:
        """Keep a message until it is done with."""
        envelope.accepted = self.durability.next_accepted()
        text = orjson.dumps(codec.message(envelope)).decode()
        self.durability.table.accept(self._id(), envelope.accepted, text)

    def dropped(self, envelope: Envelope) -> None:
        self._here.pop(envelope.id, None)
        if envelope.accepted:
            self.durability.table.forget_accepted(self._id(), envelope.accepted)

    def forget_reply(self, message_id: str) -> None:
        """What is to be handled again was never answered."""
        self._replies.pop(message_id, None)

    def _id(self) -> int:
        return self._get_row().id

    def _get_row(self) -> Row:
        if self._row is None:
            self._row = self.durability.row(self.address)
        return self._row

    # -- recovery -----------------------------------------------------------------------------------------

    def recover(self, actor: Actor, go: Callable[[str | None], None], failed: Callable[[Exit], None]) -> None:
        self.actor = actor
        self._turn = None
        self._retrying = False
        if self.durability.is_repaired(self.address, lambda: self.recover(actor, go, failed)):
            return

        def settled(error: Exception | None) -> None:
            if not actor.alive:
                return
            if error is not None:
                failed(exits.crashed("unavailable", str(error)))
                return
            try:
                state = self._load(actor)
            except Damaged as damage:
                failed(
                    exits.crashed(
                        "journal-damaged",
                        f"the journal of actor {self.address.text!r} is damaged: {damage}; "
                        "`plexspaces journal verify` says more",
                    )
                )
                return
            except Exception as fault:
                # A fault of ours, and nobody above waits for this call: whoever waits for the start must hear of it.
                failed(exits.crashed("internal", f"a fault of the node ({type(fault).__name__}: {fault})"))
                raise
            go(state)

        self.durability.table.settled(settled)

    def _load(self, actor: Actor) -> str | None:
        table = self.durability.table
        # What an earlier incarnation did not come to is on disk.
        actor.mailbox.forget_returned()
        row = self._row = table.find(self.address) or self.durability.row(self.address)
        self._replies.clear()
        history = self._read(row)
        self._number, row.hash, row.head = history.number, history.hash, history.number
        self._cuts = history.cuts
        self._history = history.done
        self._kept_init, self._kept_state = history.init, row.state or ""
        self._again = history.again
        self._restored = (row.component, row.state) if row.state is not None else None
        row.open_from = min((turn.start for turn in history.again.values()), default=0)
        accepted = {each.number: each for each in table.inbox(row.id)}
        self._attempts = {number: each.attempts for number, each in accepted.items() if each.attempts}
        waiting = {envelope.accepted for envelope in actor.mailbox.messages}
        # Others with such ids have ended with the incarnation that had them, or are given back below.
        earlier = self._here
        self._here = {envelope.id: envelope for envelope in actor.mailbox.messages if envelope.repeatable}
        self._returned = []
        flying = history.open
        if flying is not None:
            flying.effects = shortened(flying.effects)
            self._again[flying.envelope.id] = flying
            row.open_from = min(row.open_from, flying.start) if row.open_from else flying.start
            self._returned.append(flying.envelope)
            accepted.pop(flying.envelope.accepted, None)
        self._returned += [
            codec.envelope(self.address.scope, each.message, each.number)
            for number, each in accepted.items()
            if number not in waiting
        ]
        for envelope in self._returned:
            if envelope.repeatable:
                if (before := self._here.get(envelope.id) or earlier.get(envelope.id)) is not None:
                    # Somebody may wait for it already.
                    envelope.pending = before.pending
                self._here[envelope.id] = envelope
        actor.mailbox.held = bool(self._returned) or self.durability.held
        self._restore_timers(actor, row.id)
        state, row.state = row.state, None
        return state

    def _read(self, row: Row) -> History:
        after = min(row.checkpoint, row.open_from - 1) if row.open_from else row.checkpoint
        # The hash of the entry before the first one is in that entry.
        entries = self.durability.table.entries(row.id, max(row.base, after - 1))
        before = (row.base, row.base_hash)
        if after > row.base:
            if not entries or entries[0].number != after:
                raise Damaged(after, f"entry {after} is missing")
            init = None
            if entries[0].number == row.checkpoint:
                check_state(row, entries[0])
                init = orjson.loads(entries[0].body).get("init")
            before = (after, entries[0].hash)
            cut = [before] if entries[0].kind == "checkpoint" else []
            history = read(row, entries[1:], before, self.address)
            history.init = history.init or init
            history.cuts.extendleft(cut)
            return history
        return read(row, entries, before, self.address)

    def begin_again(self, failed: Callable[[Exit], None]) -> list[Step]:
        """`init` as it was, where it had no state yet."""
        kept = self._kept_init
        return self._init_again(kept, failed) if self._history and kept is not None and not _had_state(kept) else []

    def replay(self, failed: Callable[[Exit], None]) -> list[Step]:
        """What brings an instance with the checkpoint's state to where it was: `init` as it was then, for what it has
        set beside the state, and then the messages."""
        kept = self._kept_init
        if not self._history or kept is None or not _had_state(kept):
            return self._next(failed)
        config = self._config_of(kept)
        again = Step(Export.SET_STATE, lambda: (config, self._kept_state), self._state_again(failed))
        return [*self._init_again(kept, failed), again]

    def _init_again(self, kept: dict[str, Any], failed: Callable[[Exit], None]) -> list[Step]:
        actor = self.actor
        assert actor is not None
        return [self.init_again(kept, failed, lenient=self._get_row().component != actor.spec.component_hash)]

    def _config_of(self, kept: dict[str, Any]) -> tuple[str, str, str, bool, str]:
        role, args, restored, facets = kept["config"]
        return self.address.text, role, args, restored, facets

    def init_again(self, kept: dict[str, Any], failed: Callable[[Exit], None], *, lenient: bool) -> Step:
        """`init` as it was, as a step; the state has to be set, again if it had one, after it."""
        config = self._config_of(kept)
        turn = Turn(Envelope("init", Kind.INFO, "init", "{}"), closed=True, initial=True, lenient=lenient)
        turn.effects = [Effect(index, *effect) for index, effect in enumerate(kept["effects"])]

        def arguments() -> tuple[Any, ...]:
            self._turn = turn
            return (config,)

        def over(result: Result) -> bool:
            self._turn = None
            if lenient:
                # What it could not do then matters if a message needs it, and is heard of there.
                return not isinstance(result, Trapped) or _fails(failed, result.exit)
            if isinstance(result, Trapped):
                return _fails(failed, result.exit)
            if isinstance(result, Failure) or turn.position < len(turn.effects):
                what = result.message if isinstance(result, Failure) else _told(turn.effects[turn.position])
                return _fails(failed, self._nondeterminism(turn, f"ended otherwise: {what}"))
            return True

        return Step(Export.INIT, arguments, over)

    def _state_again(self, failed: Callable[[Exit], None]) -> Callable[[Result], bool]:
        def over(result: Result) -> bool:
            if isinstance(result, Trapped):
                return _fails(failed, result.exit)
            if isinstance(result, Failure):
                return _fails(failed, exits.crashed(result.code, result.message, result.traceback))
            actor = self.actor
            assert actor is not None
            actor.plan[:0] = self._next(failed)
            return True

        return over

    def initialising(self, config: tuple[str, str, str, bool, str]) -> None:
        _, role, args, restored, facets = config
        self._turn = Turn(Envelope("init", Kind.INFO, "init", "{}"), initial=True)
        self._init = {"config": [role, args, restored, facets], "effects": []}

    def initialised(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None and self._init is not None:
            self._init["effects"] = [[each.function, each.request, each.result] for each in turn.effects]

    def _next(self, failed: Callable[[Exit], None]) -> list[Step]:
        """The next message to be replayed, as a step of the start; each puts the one after it in line."""
        if not self._history:
            return []
        turn = self._history.popleft()

        def arguments() -> tuple[Any, ...]:
            self._turn = turn
            return turn.envelope.arguments()

        def handled(result: Result) -> bool:
            self._turn = None
            if isinstance(result, Trapped):
                failed(result.exit)
                return False
            if (problem := differs(turn, result)) is not None:
                failed(self._nondeterminism(turn, problem))
                return False
            actor = self.actor
            assert actor is not None
            actor.plan[:0] = self._next(failed)
            return True

        self._restored = None
        return [Step(Export.HANDLE, arguments, handled)]

    def captured(self, state: str, component: str = "") -> None:
        """The state as it is now is what the next recovery begins with."""
        row = self._get_row()
        component = component or (self.actor.spec.component_hash if self.actor is not None else row.component)
        restored, self._restored = self._restored, None
        if restored == (component, state) and self._messages == 0 and self._init == self._kept_init:
            return
        self._kept_init = self._init
        before = row.hash
        self._number += 1
        body = codec.checkpoint(component, self.durability.now_ms(), state, init=self._init)
        row.hash = codec.chain(before, self._number, "checkpoint", body)
        row.component, row.checkpoint, row.head, row.state = component, self._number, self._number, state
        row.flying = int(bool(self._again))
        if not self._again:
            # What was in flight when the one before was written is done.
            row.open_from = 0
            self._cuts.append((self._number, row.hash))
        cut = None
        while len(self._cuts) > self._config.retain_checkpoints and (
            not row.open_from or self._cuts[0][0] < row.open_from
        ):
            cut = self._cuts.popleft()
        self.durability.table.checkpoint(row, body, cut=cut)
        self.durability.table.forget_replies(row.id, self.durability.now_ms() - self._config.reply_retention_ms)
        row.state = None
        self._messages = 0

    def not_captured(self, problem: str) -> None:
        self.durability.events.emit(StateNotKept(self.address, problem))

    def started(self) -> None:
        self.durability.up(self)

    def go_on(self) -> None:
        """Let the messages come back that were accepted before."""
        actor, returned = self.actor, self._returned
        self._returned = []
        if actor is None or not actor.alive:
            return
        attempts = self._attempts.get(returned[0].accepted, 0) if returned else 0
        actor.mailbox.give_back(returned)
        if attempts:
            delay_s = min(self._config.retry_backoff_s * 2 ** (attempts - 1), _BACKOFF_S_MAX)
            self.durability.later(delay_s, lambda: self._release(actor))
        else:
            self._release(actor)

    def _release(self, actor: Actor) -> None:
        # The mailbox of a dead one is its successor's.
        if actor.alive:
            actor.mailbox.held = False
            if not actor.mailbox.empty:
                self.durability.wake(actor)

    # -- messages -----------------------------------------------------------------------------------------

    def begin(self, envelope: Envelope) -> bool:
        if envelope.repeatable and self._answered_before(envelope):
            self.dropped(envelope)
            return False
        turn = self._again.pop(envelope.id, None)
        if turn is None:
            turn = Turn(envelope)
        else:
            turn.envelope = envelope
            turn.position = 0
            if turn.again:
                turn.start = 0
        self._turn = turn
        return True

    def finished(self, envelope: Envelope, result: str | Failure | None) -> Exit | None:
        turn = self._turn
        if turn is None:
            return None
        if turn.position < len(turn.effects):
            return self._nondeterminism(turn, f"ended without asking for {_told(turn.effects[turn.position])}")
        self._turn = None
        end = _end(result)
        self._record_end(turn, end, self._get_row())
        if envelope.repeatable:
            self._here.pop(envelope.id, None)
            self._keep_reply(envelope.id, None if end == {"deferred": True} else orjson.dumps(end).decode())
        self._messages += 1
        return None

    @property
    def checkpoint_due(self) -> bool:
        return self._messages >= self._config.checkpoint_interval

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        """A message whose actor has ended: tried again, or given up."""
        turn = self._turn
        if not isinstance(result, Trapped) or turn is None:
            return
        self._turn = None
        exit_ = result.exit
        if exit_.reason not in (Reason.CRASHED, Reason.LIMIT, Reason.KILLED) or self.durability.closing:
            # It goes on with the next incarnation.
            return
        row = self._get_row()
        attempts = self._attempts.get(envelope.accepted, 0) + 1
        retry = bool(envelope.accepted) and attempts < self._config.max_attempts
        end: dict[str, Any] = {"crash": exit_.text, "message": exit_.message}
        if retry:
            self._retrying = True
            end["retry"] = True
            self._record_end(turn, end, row, keep=True)
            self._attempts[envelope.accepted] = attempts
            self.durability.table.attempted(row.id, envelope.accepted, attempts)
            return
        self._record_end(turn, end, row)
        if envelope.accepted:
            self._attempts.pop(envelope.accepted, None)
            text = orjson.dumps(codec.message(envelope)).decode()
            self.durability.table.bury(row.id, text, exit_.text, attempts, self.durability.now_ms())
            self.durability.events.emit(DeadLetter(self.address, envelope.id, envelope.op, exit_.text, attempts))
        if envelope.repeatable:
            self._here.pop(envelope.id, None)
            self._keep_reply(envelope.id, orjson.dumps(end).decode())

    def ended(self, exit_: Exit) -> None:
        self._turn = None
        self.actor = None

    @property
    def unfinished(self) -> bool:
        return self._retrying or bool(self._timers)

    def report(self) -> dict[str, Any]:
        row = self._row
        return {
            "journal_entries": self._number,
            "checkpoint": row.checkpoint if row is not None else 0,
            "checkpoint_interval": self._config.checkpoint_interval,
            "messages_since_checkpoint": self._messages,
        }

    # -- host calls ---------------------------------------------------------------------------------------

    @property
    def attending(self) -> bool:
        return self._turn is not None

    @property
    def recording(self) -> bool:
        return self._turn is not None and not self._turn.initial

    @property
    def quiet(self) -> bool:
        turn = self._turn
        return turn is not None and (turn.closed or turn.position < len(turn.effects))

    def replayed(self, request: HostRequest) -> Any:
        turn = self._turn
        assert turn is not None
        turn.function = f"{request.interface}.{request.function}"
        turn.request = codec.request_text(request.arguments)
        if turn.initial and not turn.closed:
            return MISS
        if turn.lenient:
            return _nearest(turn)
        if turn.position == len(turn.effects):
            if turn.closed:
                raise Diverged(f"asked for {turn.function}{turn.request}, and had ended there")
            asked = turn.asked.get(turn.index)
            if asked is not None and asked != (turn.function, turn.request):
                raise Diverged(f"asked for {turn.function}{turn.request}, and {''.join(asked)} was under way")
            return MISS
        effect = turn.effects[turn.position]
        if effect.function != turn.function or effect.request != turn.request:
            raise Diverged(f"asked for {turn.function}{turn.request}, and {_told(effect)} is recorded")
        turn.position += 1
        turn.index = effect.index
        if turn.function in _STEPS:
            _step(turn, effect.result)
        turn.index += 1
        return codec.decode(effect.result)

    def diverged(self, divergence: Diverged) -> Exit:
        turn = self._turn
        assert turn is not None
        return self._nondeterminism(turn, str(divergence))

    def opening(self) -> None:
        turn = self._turn
        assert turn is not None
        if turn.initial:
            return
        turn.parts = 0
        if not turn.start:
            turn.start = self._number + 1
            self._record("message", self._beginning(turn))
        if turn.index in turn.begun:
            return
        # One that only looks whether something is there waits for nothing.
        if turn.function in _LONG and turn.request != "[0]":
            now_ms = turn.begun[turn.index] = self.durability.now_ms()
            self._record("begun", {"i": turn.index, "at_ms": now_ms})
        elif turn.function in _OUTSIDE:
            now_ms = turn.begun[turn.index] = self.durability.now_ms()
            self._record("begun", {"i": turn.index, "at_ms": now_ms, "f": turn.function, "q": turn.request})

    def answered(self, value: Any) -> None:
        turn = self._turn
        if turn is None:
            return
        if turn.closed:
            # Of another version's `init`, answered anew.
            return
        result = codec.encode(value)
        if turn.initial:
            turn.effects.append(Effect(turn.index, turn.function, turn.request, result))
            turn.index += 1
            turn.position += 1
            return
        self._record("effect", {"i": turn.index, "f": turn.function, "q": turn.request, "r": result})
        if turn.function in _STEPS:
            _step(turn, result)
        turn.index += 1

    def next_id(self) -> str:
        turn = self._turn
        assert turn is not None
        turn.parts += 1
        name = f"{turn.envelope.id}/{turn.index}"
        return name if turn.parts == 1 else f"{name}.{turn.parts}"

    def outside_id(self) -> str:
        turn = self._turn
        assert turn is not None
        begin, first, present = turn.step
        index = turn.index - present + first if begin else turn.index
        # The request is part of it: another attempt at a step may ask for something else in the same place.
        return f"{turn.envelope.id}/{index} {turn.request}"

    def begun_ms(self) -> int:
        turn = self._turn
        begun = turn.begun.get(turn.index) if turn is not None else None
        return self.durability.now_ms() if begun is None else begun

    def replied(self, message_id: str, payload: str) -> bool:
        known = self._replies.get(message_id, MISS)
        if known is MISS:
            row = self.durability.table.reply(self._id(), message_id)
            if row is None:
                return False
            (known,) = row
        if known is not None:
            return False
        self._keep_reply(message_id, orjson.dumps({"reply": payload}).decode())
        return True

    # -- timers -------------------------------------------------------------------------------------------

    def timer_set(self, timer: Timer, due_ms: int) -> None:
        written = {
            "id": timer.id, "op": timer.op, "payload": timer.payload, "due_ms": due_ms,
            "interval_ns": timer.interval_ns, "init": timer.of_init,
            "cause": {"id": timer.causation_id, "trace": timer.trace, "caller": codec.caller(timer.caller)},
        }  # fmt: skip
        self.durability.table.put_timer(self._id(), timer.id, orjson.dumps(written).decode())
        self._timers.add(timer.id)

    def timer_over(self, timer_id: str) -> None:
        self._timers.discard(timer_id)
        self.durability.table.forget_timer(self._id(), timer_id)

    def _restore_timers(self, actor: Actor, durable: int) -> None:
        now_ns, now_ms = self.durability.monotonic_ns(), self.durability.now_ms()
        self._timers.clear()
        for written in self.durability.table.timers(durable):
            if written["init"]:
                # `init` sets it again.
                self.durability.table.forget_timer(durable, written["id"])
                continue
            cause = written["cause"]
            timer = Timer(
                written["id"],
                actor,
                written["op"],
                written["payload"],
                now_ns + (written["due_ms"] - now_ms) * _NS_PER_MS,
                written["interval_ns"],
                caller=codec.read_caller(cause["caller"]),
                trace=cause["trace"],
                causation_id=cause["id"],
            )
            self.durability.add_timer(timer)
            self._timers.add(timer.id)

    # -- writing ------------------------------------------------------------------------------------------

    def _record(self, kind: str, body: dict[str, Any]) -> None:
        row = self._get_row()
        text = orjson.dumps(body).decode()
        self._number += 1
        row.hash = codec.chain(row.hash, self._number, kind, text)
        self.durability.table.append(row.id, self._number, kind, text, row.hash)

    def _beginning(self, turn: Turn) -> dict[str, Any]:
        """How a message is recorded whose turn has come."""
        body: dict[str, Any] = {"message": codec.message(turn.envelope), "at_ms": self.durability.now_ms()}
        if turn.reused:
            body["reused"] = turn.reused
        if attempts := self._attempts.get(turn.envelope.accepted, 0):
            body["attempt"] = attempts + 1
        return body

    def _record_end(self, turn: Turn, end: dict[str, Any], row: Row, *, keep: bool = False) -> None:
        if turn.start:
            kind, body = "end", end
        else:
            kind = "handled"
            body = {**self._beginning(turn), "end": end}
        text = orjson.dumps(body).decode()
        self._number += 1
        row.hash = codec.chain(row.hash, self._number, kind, text)
        self.durability.table.finish(
            row.id, self._number, kind, text, row.hash,
            accepted=0 if keep else turn.envelope.accepted,
        )  # fmt: skip

    def _keep_reply(self, message_id: str, outcome: str | None) -> None:
        self._replies[message_id] = outcome
        self.durability.table.put_reply(self._id(), message_id, outcome, self.durability.now_ms())

        def settled(error: Exception | None) -> None:
            if error is None and self._replies.get(message_id, MISS) is outcome:
                del self._replies[message_id]

        self.durability.table.settled(settled)

    def _nondeterminism(self, turn: Turn, problem: str) -> Exit:
        envelope = turn.envelope
        return Exit(
            Reason.NONDETERMINISM,
            message=f"message {envelope.id} ({envelope.op or envelope.kind.value}), given again as it was, {problem}: "
            "the code is not what it was, or depends on something that is not recorded",
        )


def _step(turn: Turn, result: Any) -> None:
    """Keep track of the step under way; `result` is as it is recorded."""
    begin, first, _ = turn.step
    if turn.function == "workflow.step-begin":
        if result == {"ok": None}:
            turn.step = (turn.request, first if begin == turn.request else turn.index, turn.index)
    elif result == {"ok": None}:
        # It is done, or has failed for good.
        turn.step = ("", 0, 0)


def _had_state(kept: dict[str, Any]) -> bool:
    """Whether the instance of a recorded `init` had been given a state before."""
    return bool(kept["config"][2])


def _fails(failed: Callable[[Exit], None], exit_: Exit) -> bool:
    failed(exit_)
    return False


def _nearest(turn: Turn) -> Any:
    """What another version's `init` is answered: what was recorded of the same call, else of the same function."""
    alike = [each for each in turn.effects if each.function == turn.function]
    if alike:
        found = next((each for each in alike if each.request == turn.request), alike[0])
        turn.effects.remove(found)
        return codec.decode(found.result)
    if turn.function == "clock.sleep-ns":
        return None
    if turn.function in _HARMLESS:
        return MISS
    return error_value(Unavailable(f"{turn.function} was not asked for by the version whose messages are given again"))


def _told(effect: Effect) -> str:
    return f"{effect.function}{effect.request}"


def _end(result: str | Failure | None) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"refusal": {"code": result.code, "message": result.message, "details": result.details}}
    return {"deferred": True} if result is None else {"reply": result}


def differs(turn: Turn, result: str | Failure | None) -> str | None:
    """How a message that was replayed came to another end than it had, if it did."""
    if turn.position < len(turn.effects):
        return f"ended without asking for {_told(turn.effects[turn.position])}"
    if not turn.closed:
        return None
    if isinstance(result, Failure) and result.crashed:
        return f"crashed ({result.code}: {result.message})"
    if (end := _end(result)) != turn.end:
        return f"ended with {_short(end)}, and {_short(turn.end)} is recorded"
    return None


def _short(end: dict[str, Any]) -> str:
    text = orjson.dumps(end).decode()
    return text if len(text) <= 200 else f"{text[:200]}..."


def _outcome(text: str) -> Outcome:
    """What the asker of a message is told that ended so."""
    end = orjson.loads(text)
    if "reply" in end:
        return str(end["reply"])
    if "refusal" in end:
        refusal = end["refusal"]
        return refused(refusal["code"], refusal["message"], refusal["details"])
    return HandlerCrashed(end["message"] or end["crash"], exit=end["crash"])
