"""What is made of a journal's entries."""

from __future__ import annotations

from typing import Any

import orjson

from plexspaces_runtime.durability import codec, durable
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.journal import Entry, Row

ADDRESS = Address(Scope("acme", "default"), "a")
CRASH = {"crash": "crashed(Crash, as told)", "message": "as told"}


class Journal:
    """Entries, written one after the other, from a certain number on."""

    def __init__(self, before: int) -> None:
        self.before = (before, b"before")
        self.entries: list[Entry] = []

    def write(self, kind: str, **body: Any) -> Entry:
        number, hash_ = (self.entries[-1].number, self.entries[-1].hash) if self.entries else self.before
        text = orjson.dumps(body).decode()
        self.entries.append(Entry(number + 1, kind, text, codec.chain(hash_, number + 1, kind, text)))
        return self.entries[-1]

    def read(self, *, checkpoint: int) -> durable.History:
        last = self.entries[-1]
        row = Row(1, "", checkpoint, None, last.number, last.hash, *self.before, 0, 0)
        return durable.read(row, self.entries, self.before, ADDRESS)


def told(message_id: str) -> dict[str, Any]:
    return {"id": message_id, "kind": "cast", "op": "run", "payload": "{}"}


def test_an_attempt_may_be_all_that_is_left_of_a_message_that_was_done_before_the_checkpoint() -> None:
    journal = Journal(before=79)
    # `waits` was tried first at 80 and is to be tried again, so that everything from there on is still needed; of
    # `gone` that is the last attempt alone.
    journal.write("message", message=told("waits"), at_ms=0)
    journal.write("effect", i=0, f="clock.now-ns", q="[]", r=1)
    journal.write("end", **CRASH, retry=True)
    journal.write("handled", message=told("gone"), reused=6, end=CRASH, at_ms=0)
    checkpoint = journal.write("checkpoint", format=1, component="", at_ms=0)
    journal.write("handled", message=told("fine"), end={"reply": "{}"}, at_ms=0)
    history = journal.read(checkpoint=checkpoint.number)
    assert [turn.envelope.id for turn in history.done] == ["fine"]
    assert history.again.keys() == {"waits"}
    assert history.again["waits"].start == 80
    assert history.open is None


def test_a_journal_is_cut_only_where_nothing_is_in_flight_and_nothing_is_to_be_tried_again() -> None:
    journal = Journal(before=0)
    good = [journal.write("checkpoint", format=1, component="", at_ms=0)]
    journal.write("message", message=told("one"), at_ms=0)
    journal.write("checkpoint", format=1, component="", at_ms=0)
    journal.write("end", **CRASH, retry=True)
    journal.write("checkpoint", format=1, component="", at_ms=0)
    journal.write("message", message=told("one"), at_ms=0)
    journal.write("end", reply="{}")
    good.append(journal.write("checkpoint", format=1, component="", at_ms=0))
    cuts = journal.read(checkpoint=good[-1].number).cuts
    assert list(cuts) == [(entry.number, entry.hash) for entry in good]
