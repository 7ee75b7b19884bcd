"""The one place every host call of every guest passes: capability, dispatch, errors as WIT values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..actors.actor import Actor
from ..actors.asks import Asks
from ..actors.capabilities import Need, need_of
from ..actors.facets import MISS, Diverged
from ..actors.groups import Groups
from ..actors.guest import HostRequest, Ok
from ..actors.registry import Registry
from ..actors.sizes import check_size
from ..actors.timers import Timers
from ..clock import Clock
from ..egress.veil import Veil
from ..errors import ActorNotFound, InvalidArgument, LimitExceeded, PermissionDenied, PlexSpacesError, Unavailable
from ..events import EventBus, HostFault
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
    credentials,
    http,
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
from .effects import effect
from .permissions import Permissions
from .wire import error_value

if TYPE_CHECKING:
    from ..egress.egress import Egress
    from ..egress.vault import Vault
    from ..scheduler import Scheduler

# Functions whose result has no room for an error, but each of its elements has.
_ANSWER_EACH: Final = frozenset({("messaging", "ask-many")})

_TEXT_BYTES_MAX: Final = 256
# Texts up to this long are judged by nobody but the function.
_LONG_CHARS: Final = 65_536
# A part of a blob in base64.
_BLOB_PART_CHARS_MAX: Final = blobs.PART_BYTES_MAX * 4 // 3 + 4

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
    "http": http,
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
        egress: the way out; set by the node that has one.
        vault: keeps what is secret; set by the node that has one.
        veil: knows which arguments of messages are secret; set with the vault.
        audited: effects are told, with who is answerable; set by the node.
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
        self.permissions = Permissions(registry, events)
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
        self.egress: Egress | None = None
        self.vault: Vault | None = None
        self.veil: Veil | None = None
        self.exchanges = http.Exchanges(self)
        self.audited = False
        self.waiting: dict[Actor, Callable[[], None]] = {}
        self.on_end: list[Callable[[Actor], None]] = [
            registry.remove,
            self.groups.leave_all,
            self.timers.cancel_all,
            self.subscriptions.remove_all,
            self.tuple_feeds.remove_all,
            self.pushes.remove_all,
            self.exchanges.remove_all,
            self._stop_waiting,
            _forget_sleep,
        ]
        # Set by the node: the scheduler needs `serve` to be made, and this needs the scheduler.
        self.scheduler: Scheduler
        self._functions: dict[tuple[str, str], tuple[Callable[..., Any], bool, str, Need | None]] = {}
        for key, fallible in functions.items():
            need = need_of(*key)
            capability = need.capability if need is not None else ""
            self._functions[key] = (self._implementation(*key), fallible, capability, need)

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
        if keeper is None or not keeper.attending:
            return self._serve(actor, request)
        if request.function == credentials.REGISTER:
            request = credentials.covered(self, actor, request)
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
        implementation, fallible, capability, need = self._functions[interface, request.function]
        try:
            if capability not in actor.spec.free and need is not None:
                self.permissions.check(actor, interface, request.function, need, request.arguments)
            if fallible:
                for argument in request.arguments:
                    _check_length(argument, actor)
            value = implementation(self, actor, *request.arguments)
            if self.audited and (known := effect(actor, request)) is not None:
                self.events.emit(known)
        except PlexSpacesError as error:
            if fallible:
                return error_value(error)
            if isinstance(error, PermissionDenied) and (interface, request.function) in _ANSWER_EACH:
                return [error_value(error)] * len(request.arguments[0])
            raise GuestTrap(f"{interface}.{request.function}: {error.message}") from error
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

    def permit(self, actor: Actor, capability: str, name: str | None = None) -> None:
        """Refuse what an actor was not granted, beyond what the gate has looked at already.

        Args:
            capability: such as "http".
            name: what for, such as a link; None for nothing in particular.

        Raises:
            PermissionDenied
        """
        self.permissions.permit(actor, capability, name)

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

    def veiled(self, target: Actor, op: str, payload: str) -> str:
        """A payload as its receiver may see it: see `Veil.drawn`.

        Raises:
            InvalidArgument, LimitExceeded, Unavailable
        """
        veil = self.veil
        return veil.drawn(target.address, op, payload) if veil is not None and veil.declared else payload

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


def _check_length(argument: Any, actor: Actor) -> None:
    """Refuse a text that is longer than anything a host function takes.  Each has limits of its own, but none is to
    have to think of names, patterns or ids of as many megabytes as a guest has memory."""
    if argument.__class__ is str:
        if len(argument) > _LONG_CHARS:
            limits = actor.spec.limits
            chars_max = max(
                limits.payload_bytes_max,
                limits.value_bytes_max,
                limits.stream_event_bytes_max,
                limits.state_bytes_max,
                _BLOB_PART_CHARS_MAX,
            )
            if len(argument) > chars_max:
                raise LimitExceeded(
                    f"a text of {len(argument)} characters is more than any function of the node takes: {chars_max}",
                    limit="payload_bytes_max",
                    value=limits.payload_bytes_max,
                )
    elif isinstance(argument, list | tuple):
        for each in argument:
            _check_length(each, actor)


def _forget_sleep(actor: Actor) -> None:
    if actor.alarm is not None:
        actor.alarm.cancel()
        actor.alarm = None


def _absent(address: Address) -> ActorNotFound:
    return ActorNotFound(
        f"there is no actor {address.text!r} in namespace {address.scope.namespace!r}", actor=address.text
    )
