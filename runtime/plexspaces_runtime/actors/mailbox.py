"""A bounded mailbox with a system lane that goes first.

Invariants: the user lane never holds more than its limit (M3); messages leave in the order they came (M1, because
one sender's messages come in its order); whoever waits for room gets it in the order of asking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

M = TypeVar("M")
S = TypeVar("S")


class Mailbox(Generic[M, S]):
    """Two lanes of messages: `S` for the system (never refused), `M` for everybody else.

    Args:
        messages_max: how many user messages may wait.
    """

    __slots__ = ("_messages_max", "_returned", "_room_waiters", "_system", "_user", "held", "on_enter")

    def __init__(self, messages_max: int) -> None:
        self._messages_max = messages_max
        self._user: deque[M] = deque()
        self._system: deque[S] = deque()
        self._room_waiters: deque[Callable[[], bool]] = deque()
        # Messages that were here before, and go first.
        self._returned: deque[M] = deque()
        # User messages are not to be handled yet.
        self.held = False
        # Told of each message that is put in.
        self.on_enter: Callable[[M], None] | None = None

    def __len__(self) -> int:
        return len(self._user)

    @property
    def empty(self) -> bool:
        return not self._user and not self._system and not self._returned

    @property
    def full(self) -> bool:
        # While others wait for room, a newcomer must not overtake them.
        return len(self._user) >= self._messages_max or bool(self._room_waiters)

    def resize(self, messages_max: int) -> None:
        """Hold to another limit from now on; what waits already is kept, even if it is more."""
        self._messages_max = messages_max
        self._admit()

    def offer(self, message: M) -> bool:
        """Add to the user lane; False when it is full."""
        if len(self._user) >= self._messages_max or self._room_waiters:
            return False
        self._user.append(message)
        if self.on_enter is not None:
            self.on_enter(message)
        return True

    def offer_system(self, signal: S) -> None:
        """Add to the system lane, which has no limit: only the runtime writes there."""
        self._system.append(signal)

    def wait_for_room(self, message: M, on_done: Callable[[], bool]) -> None:
        """Queue `message` for the first free place; `on_done` is called when it is in.

        `on_done` answers False when the sender has given up in the meantime: then nothing is put in and the place
        goes to the next one.
        """

        def enter() -> bool:
            if not on_done():
                return False
            self._user.append(message)
            if self.on_enter is not None:
                self.on_enter(message)
            return True

        self._room_waiters.append(enter)

    def forget_signals(self, void: Callable[[S], bool]) -> None:
        """Drop those that wait in the system lane and are `void`."""
        if self._system:
            self._system = deque(signal for signal in self._system if not void(signal))

    def give_back(self, messages: Iterable[M]) -> None:
        """Messages that had been accepted before: they go first, and no limit refuses them."""
        self._returned.extend(messages)

    def forget_returned(self) -> None:
        """Drop what was given back: it is about to be given back anew."""
        self._returned.clear()

    @property
    def returning(self) -> bool:
        """Whether messages that were accepted before are to come first."""
        return self.held or bool(self._returned)

    @property
    def messages(self) -> tuple[M, ...]:
        """What waits in the user lane."""
        return (*self._returned, *self._user)

    def take_system(self, wanted: Callable[[S], bool] | None = None) -> S | None:
        """The next signal, or the next that is `wanted`; or None."""
        if wanted is None:
            return self._system.popleft() if self._system else None
        for signal in self._system:
            if wanted(signal):
                self._system.remove(signal)
                return signal
        return None

    @property
    def signals(self) -> tuple[S, ...]:
        """What waits in the system lane."""
        return tuple(self._system)

    def take(self) -> M | None:
        """The next user message, or None; lets in whoever waits longest for the place."""
        if self.held:
            return None
        if self._returned:
            return self._returned.popleft()
        if not self._user:
            return None
        message = self._user.popleft()
        if self._room_waiters:
            self._admit()
        return message

    def drain(self) -> list[M]:
        """Everything that waits in the user lane, which is empty and open afterwards."""
        self.held = False
        left: list[M] = []
        while (message := self.take()) is not None:
            left.append(message)
        return left

    def _admit(self) -> None:
        while self._room_waiters and len(self._user) < self._messages_max:
            self._room_waiters.popleft()()
