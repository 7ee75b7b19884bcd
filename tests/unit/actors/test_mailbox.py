"""The mailbox against a plain model: bounded, in order, system lane first, room in the order of asking."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plexspaces_runtime.actors.mailbox import Mailbox

LIMIT = 3


class MailboxMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.mailbox: Mailbox[int, str] = Mailbox(LIMIT)
        self.user: list[int] = []
        self.system: list[str] = []
        # Who waits for room: number, and whether it still wants to.
        self.waiting: list[tuple[int, list[bool]]] = []
        self.entered: list[int] = []
        self.count = 0

    @rule()
    def offer(self) -> None:
        self.count += 1
        fits = len(self.user) < LIMIT and not self.waiting
        assert self.mailbox.offer(self.count) is fits
        if fits:
            self.user.append(self.count)

    @precondition(lambda self: self.mailbox.full)
    @rule()
    def wait(self) -> None:
        self.count += 1
        number, wants = self.count, [True]

        def on_done() -> bool:
            if wants[0]:
                self.entered.append(number)
            return wants[0]

        self.mailbox.wait_for_room(number, on_done)
        self.waiting.append((number, wants))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting))[1][0] = False

    @rule()
    def signal(self) -> None:
        self.count += 1
        self.mailbox.offer_system(str(self.count))
        self.system.append(str(self.count))

    @rule()
    def take_system(self) -> None:
        assert self.mailbox.take_system() == (self.system.pop(0) if self.system else None)

    @rule()
    def take(self) -> None:
        assert self.mailbox.take() == (self.user.pop(0) if self.user else None)
        while self.waiting and len(self.user) < LIMIT:
            number, wants = self.waiting.pop(0)
            if wants[0]:
                self.user.append(number)
                assert self.entered[-1] == number or number in self.entered

    @rule()
    def drain(self) -> None:
        expected = self.user + [number for number, wants in self.waiting if wants[0]]
        assert self.mailbox.drain() == expected
        self.user.clear()
        self.waiting.clear()

    @invariant()
    def is_bounded_and_counted(self) -> None:
        assert len(self.mailbox) == len(self.user) <= LIMIT
        assert self.mailbox.signals == tuple(self.system)
        assert self.mailbox.empty == (not self.user and not self.system)


TestMailbox = MailboxMachine.TestCase
TestMailbox.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
