"""The one place every host call of every guest passes: capability, dispatch, errors as WIT values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..actors.actor import Actor
from ..actors.asks import Asks
from ..actors.facets import MISS, Diverged
from ..actors.groups import Groups
from ..actors.guest import HostRequest, Ok
from ..actors.registry import Registry
from ..actors.sizes import check_size
from ..actors.timers import Timers
from ..clock import Clock
from ..errors import ActorNotFound, InvalidArgument, PermissionDenied, PlexSpacesError, Unavailable
from ..events import EventBus, HostFault, PermissionRefused
from ..ids import Ids
from ..scheduler import PENDING, GuestTrap
from ..scope import Address
from ..stores.blobs import Blobs
from ..stores.channels import Channels
from ..stores.keyvalue import KeyValue
from ..stores.locks import Locks
from ..stores.streams import Streams
from ..stores.tuplespace import TupleSpace
from . import (
    blobs,
    channels,
    clock,
    keyvalue,
    lifecycle,
    locks,
    logging,
    messaging,
    process_groups,
    random,
    registry,
    streams,
    timers,
    tuplespace,
    workflow,
)
from .wire import error_value

if TYPE_CHECKING:
    from ..scheduler import Scheduler

# Harmless to everybody but the actor itself, and no actor works without them.
_ALWAYS_GRANTED: Final = frozenset({"clock", "random", "logging"})

_TEXT_BYTES_MAX: Final = 256

# Calls of a durable actor that tell it nothing: a line of the log is not written again, and what a run publishes is for
# those who ask now.
_UNRECORDED: Final = {("logging", "log"): False, ("workflow", "publish-state"): True}

# Interfaces of the WIT, by the module that serves them.
_SERVED: Final[dict[str, Any]] = {
    "messaging": messaging,
    "lifecycle": lifecycle,
    "timers": timers,
    "process-groups": process_groups,
    "registry": registry,
    "clock": clock,
    "random": random,
    "logging": logging,
    "blobs": blobs,
    "streams": streams,
    "keyvalue": keyvalue,
    "locks": locks,
    "tuplespace": tuplespace,
    "channels": channels,
    "workflow": workflow,
}


class Host:
    """Serves host calls.  Its attributes are what the modules of this package work with.

    Args:
        functions: every function of the WIT: (interface, function) to whether its result can hold an error.
        loop: for sleeping and timers.

    Attributes:
        spawner: starts actors on behalf of others; set by the node.
        streams, blobs, keyvalue, locks, tuplespace, channels: stores; set by the node that keeps some.
        runs: conducts workflows; set by the node that keeps some.
        waiting: by actor that waits for something in a store, what makes the store forget it.
        on_end: takes a dead actor out of a store, one each; in this order, before anybody hears of the end.
    """

    def __init__(
        self,
        *,
        functions: dict[tuple[str, str], bool],
        registry: Registry,
        asks: Asks,
        clock: Clock,
        ids: Ids,
        events: EventBus,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.registry = registry
        self.asks = asks
        self.clock = clock
        self.ids = ids
        self.events = events
        self.loop = loop
        self.interfaces = frozenset(interface for interface, _ in functions)
        self.groups = Groups()
        self.timers = Timers(clock, self._set_timer_alarm, partial(timers.due, self))
        self._timer_alarm: asyncio.TimerHandle | None = None
        self.spawner: lifecycle.Spawner | None = None
        self.streams: Streams | None = None
        self.subscriptions = streams.Subscriptions(self)
        self.blobs: Blobs | None = None
        self.keyvalue: KeyValue | None = None
        self.locks: Locks | None = None
        self.tuplespace: TupleSpace | None = None
        self.tuple_feeds = tuplespace.TupleFeeds(self)
        self.channels: Channels | None = None
        self.pushes = channels.Pushes(self)
        self.runs: workflow.Runs | None = None
        self.waiting: dict[Actor, Callable[[], None]] = {}
        self.on_end: list[Callable[[Actor], None]] = [
            registry.remove,
            self.groups.leave_all,
            self.timers.cancel_all,
            self.subscriptions.remove_all,
            self.tuple_feeds.remove_all,
            self.pushes.remove_all,
            self._stop_waiting,
            _forget_sleep,
        ]
        # Set by the node: the scheduler needs `serve` to be made, and this needs the scheduler.
        self.scheduler: Scheduler
        self._functions: dict[tuple[str, str], tuple[Callable[..., Any], bool]] = {
            key: (self._implementation(*key), fallible) for key, fallible in functions.items()
        }

    def _implementation(self, interface: str, function: str) -> Callable[..., Any]:
        module = _SERVED.get(interface)
        name = function.replace("-", "_")
        if module is None or not hasattr(module, name):

            def unavailable(_host: Host, _actor: Actor, *_arguments: Any) -> Any:
                raise Unavailable(
                    f"{interface}.{function} is declared, but this version of the node does not have it yet",
                    interface=interface,
                )

            return unavailable
        implementation: Callable[..., Any] = getattr(module, name)
        return implementation

    def serve(self, actor: Actor, request: HostRequest) -> Any:
        """Answer a host call at once, or `PENDING`.

        Raises:
            GuestTrap: it failed, and the function's type has no room for an error.
        """
        keeper = actor.keeper
        if keeper is None or not keeper.recording:
            return self._serve(actor, request)
        again = _UNRECORDED.get((request.interface, request.function))
        if again is not None:
            return self._serve(actor, request) if again or not keeper.quiet else None
        try:
            value = keeper.replayed(request)
        except Diverged as divergence:
            self.scheduler.kill(actor, keeper.diverged(divergence))
            return PENDING
        if value is not MISS:
            return value
        keeper.opening()
        value = self._serve(actor, request)
        if value is not PENDING and actor.alive:
            keeper.answered(value)
        return value

    def begun_ms(self, actor: Actor) -> int:
        """When the host call being served was begun for the first time, maybe by a node that has died since: wall
        clock, milliseconds."""
        keeper = actor.keeper
        return self.clock.now_ns() // 1_000_000 if keeper is None else keeper.begun_ms()

    def message_id(self, actor: Actor) -> str:
        """An id for a message that the actor sends."""
        keeper = actor.keeper
        return self.ids.next("m") if keeper is None or not keeper.recording else keeper.next_id()

    def _serve(self, actor: Actor, request: HostRequest) -> Any:
        interface = request.interface
        implementation, fallible = self._functions[interface, request.function]
        try:
            granted = actor.spec.capabilities
            if granted is not None and interface not in granted and interface not in _ALWAYS_GRANTED:
                self.events.emit(PermissionRefused(actor.address, interface, request.function))
                raise PermissionDenied(
                    f"this actor may not use {interface}: add {interface!r} to its capabilities", capability=interface
                )
            value = implementation(self, actor, *request.arguments)
        except PlexSpacesError as error:
            if not fallible:
                raise GuestTrap(f"{interface}.{request.function}: {error.message}") from error
            return error_value(error)
        except Exception as fault:
            self.events.emit(HostFault(actor.address, interface, request.function, f"{type(fault).__name__}: {fault}"))
            if not fallible:
                raise GuestTrap(f"{interface}.{request.function}: a fault of the node") from fault
            return error_value(fault)
        if fallible and value is not PENDING:
            return Ok(value)
        return value

    def _stop_waiting(self, actor: Actor) -> None:
        if (give_up := self.waiting.pop(actor, None)) is not None:
            give_up()

    def release(self, actor: Actor) -> None:
        """Take a dead actor out of every store."""
        for leave in self.on_end:
            leave(actor)

    # -- what the modules share ---------------------------------------------------------------------------

    def find(self, actor: Actor, name: str) -> Actor:
        """The actor that `actor` calls `name`: a living one, or a virtual one that lives from now on.

        Raises:
            ActorNotFound, InvalidArgument
        """
        found = self.registry.find(actor.address.scope, name)
        if found is None:
            address = Address.parse(actor.address.scope, name)
            found = self.registry.resolve(address.scope, address.text)
            if found is None:
                raise _absent(address)
        return found

    def find_living(self, actor: Actor, name: str) -> Actor:
        """The actor that `actor` calls `name`, if it lives.

        Raises:
            ActorNotFound, InvalidArgument
        """
        found, _ = self.look_up(actor, name)
        if found is None:
            raise _absent(Address.parse(actor.address.scope, name))
        return found

    def look_up(self, actor: Actor, name: str) -> tuple[Actor | None, str]:
        """The actor that `actor` calls `name`, None unless it lives; and the name as it is written.

        Raises:
            InvalidArgument
        """
        address = Address.parse(actor.address.scope, name)
        return self.registry.find(address.scope, address.text), address.text

    def check_payload(self, actor: Actor, payload: str) -> None:
        """Refuse a payload that is larger than may be sent.

        Raises:
            LimitExceeded
        """
        check_size("payload", payload, actor.spec.limits.payload_bytes_max)

    def check_text(self, what: str, text: str) -> None:
        """Refuse a name or value that is empty or longer than such may be.

        Raises:
            InvalidArgument
        """
        size = len(text.encode("utf-8", "replace"))
        if not 1 <= size <= _TEXT_BYTES_MAX:
            raise InvalidArgument(f"{what} has 1 to {_TEXT_BYTES_MAX} bytes, not {size}")

    def _set_timer_alarm(self, delay_s: float | None) -> None:
        if self._timer_alarm is not None:
            self._timer_alarm.cancel()
        self._timer_alarm = None if delay_s is None else self.loop.call_later(delay_s, self.timers.ring)


def _forget_sleep(actor: Actor) -> None:
    if actor.alarm is not None:
        actor.alarm.cancel()
        actor.alarm = None


def _absent(address: Address) -> ActorNotFound:
    return ActorNotFound(
        f"there is no actor {address.text!r} in namespace {address.scope.namespace!r}", actor=address.text
    )
