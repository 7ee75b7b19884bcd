"""A node: it joins all parts, starts them in order and stops them in reverse.

Not a singleton: several nodes live in one process as well as in several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .actors.actor import Run
from .actors.asks import Asks
from .actors.envelope import Envelope, Kind, Outcome
from .actors.info import ActorInfo
from .actors.lifecycle import State
from .actors.registry import Registry
from .actors.sizes import check_size
from .clock import Clock, SystemClock
from .config import NodeConfig
from .deployment.keeper import Keeper
from .deployment.model import Deployment
from .errors import ActorNotFound, MailboxFull, Unavailable
from .events import EventBus, NodeStarted, NodeStopping
from .host import Host
from .ids import Ids, SystemIds
from .scheduler import Scheduler
from .scope import Address, Caller, Scope
from .wasm.engine import Sandbox
from .wasm.wit import Result as WitResult

# How long an actor's `terminate` may take when the node stops.
_TERMINATE_S = 5.0


class Node:
    """One operating-system process's worth of actors.

    Args:
        config: limits, data directory, times.
        clock: time; a test may hand in its own.
        ids: ids and chance.
    """

    def __init__(self, config: NodeConfig, *, clock: Clock | None = None, ids: Ids | None = None) -> None:
        self.config = config
        self.limits = config.limits
        self.clock: Clock = clock or SystemClock()
        self.ids: Ids = ids or SystemIds()
        self.events = EventBus()
        self._accepting = False
        self._ask_alarm: asyncio.TimerHandle | None = None
        self._wall_alarm: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Make the parts and begin to accept work."""
        loop = self._loop = asyncio.get_running_loop()
        limits = self.limits
        self._registry = Registry(limits.actors_per_tenant_max)
        self._asks = Asks(self.clock, self._set_ask_alarm)
        self._sandbox = Sandbox(self.config.cache_dir, limits)
        host = Host(
            functions={
                (interface.name, function.name): isinstance(function.result, WitResult)
                for interface in self._sandbox.package.interfaces.values()
                for function in interface.functions.values()
            },
            registry=self._registry,
            asks=self._asks,
            clock=self.clock,
            ids=self.ids,
            events=self.events,
            loop=loop,
        )
        self._scheduler = host.scheduler = Scheduler(
            clock=self.clock,
            limits=limits,
            events=self.events,
            asks=self._asks,
            ticker=self._sandbox.ticker,
            serve=host.serve,
            set_wall_alarm=self._set_wall_alarm,
        )
        self._keeper = Keeper(
            sandbox=self._sandbox,
            scheduler=self._scheduler,
            registry=self._registry,
            asks=self._asks,
            clock=self.clock,
            events=self.events,
            limits=limits,
            loop=loop,
        )
        self._sandbox.start()
        self._accepting = True
        self.events.emit(NodeStarted())

    async def stop(self, grace_s: float | None = None) -> None:
        """Take no new work, finish what is running, stop every actor, free everything.

        Args:
            grace_s: how long running and waiting messages may take; the configured time if None.
        """
        if not self._accepting:
            return
        self._accepting = False
        grace_s = self.config.grace_s if grace_s is None else grace_s
        self.events.emit(NodeStopping(grace_s))
        self._keeper.closing = True
        deadline = self._loop.time() + grace_s
        # Looked at now and then rather than told: only the end of a node's life pays for it, not every message.
        while self._loop.time() < deadline and any(_has_work(actor) for actor in self._registry):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        # In reverse order of starting, as supervisors do.
        stopping = [asyncio.ensure_future(self._keeper.stop(actor.address)) for actor in reversed(list(self._registry))]
        if stopping:
            await asyncio.wait(stopping, timeout=max(0.0, min(_TERMINATE_S, deadline - self._loop.time())) or 0.05)
        for actor in list(self._registry):
            self._scheduler.kill(actor)
        if stopping:
            await asyncio.gather(*stopping)
        while self._scheduler.offloaded:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
        self._scheduler.close()
        await self._sandbox.close()
        for alarm in (self._ask_alarm, self._wall_alarm):
            if alarm is not None:
                alarm.cancel()

    # -- messages -----------------------------------------------------------------------------------------

    async def ask(
        self,
        address: Address,
        op: str,
        payload: str,
        *,
        caller: Caller | None = None,
        timeout_s: float | None = None,
        message_id: str = "",
        trace: str = "",
    ) -> str:
        """Send a call and wait for the reply, JSON text.

        Args:
            payload: the arguments, a JSON object as text.
            timeout_s: seconds; the configured default if None.
            message_id: the caller's own, "" for a new one.
            trace: W3C traceparent.

        Raises:
            ActorNotFound, MailboxFull, DeadlineExceeded, HandlerRefused, HandlerCrashed, ActorExited,
            LimitExceeded: the payload is too large.
        """
        actor = self._find(address)
        check_size("payload", payload, self.limits.payload_bytes_max)
        waiter = _Waiter()
        timeout_ns = self.limits.ask_timeout_ms * 1_000_000 if timeout_s is None else int(timeout_s * 1e9)
        deadline_ns = self.clock.monotonic_ns() + timeout_ns
        message_id = message_id or self.ids.next("m")
        pending = self._asks.open(message_id, actor.address, None, deadline_ns, waiter.ended)
        envelope = Envelope(message_id, Kind.CALL, op, payload, None, caller, deadline_ns, trace, "", pending)
        if not self._scheduler.deliver_and_run(actor, envelope):
            self._asks.abandon(pending)
            raise _mailbox_full(address, len(actor.mailbox))
        if not pending.ended:
            waiter.future = self._loop.create_future()
            try:
                await waiter.future
            finally:
                if not pending.ended:
                    # Whoever asked was cancelled: the reply would be for nobody.
                    self._asks.abandon(pending)
        outcome = waiter.outcome
        if isinstance(outcome, str):
            return outcome
        assert outcome is not None, "an ask has ended without an outcome"
        raise outcome

    async def tell(
        self,
        address: Address,
        op: str,
        payload: str,
        *,
        caller: Caller | None = None,
        message_id: str = "",
        trace: str = "",
    ) -> str:
        """Send a cast; its id comes back as soon as it is in the mailbox.

        Raises:
            ActorNotFound, MailboxFull, LimitExceeded: the payload is too large.
        """
        actor = self._find(address)
        check_size("payload", payload, self.limits.payload_bytes_max)
        envelope = Envelope(message_id or self.ids.next("m"), Kind.CAST, op, payload, None, caller, 0, trace)
        if not self._scheduler.deliver(actor, envelope):
            raise _mailbox_full(address, len(actor.mailbox))
        return envelope.id

    # -- deployments and actors ---------------------------------------------------------------------------

    async def deploy(
        self, scope: Scope, actor_type: str, wasm: bytes | Path, config: Mapping[str, Any] | None = None
    ) -> Deployment:
        """Deploy one actor type; see `Keeper.deploy`."""
        self._must_accept()
        return await self._keeper.deploy(scope, actor_type, wasm, config or {})

    async def undeploy(self, scope: Scope, actor_type: str) -> None:
        """Stop a type's actors and forget it."""
        self._must_accept()
        await self._keeper.undeploy(scope, actor_type)

    def deployments(self, tenant: str, namespace: str | None = None) -> list[Deployment]:
        """What is deployed."""
        return self._keeper.deployments(tenant, namespace)

    async def spawn(self, address: Address, args: Mapping[str, Any] | None = None) -> None:
        """Start an actor of a deployed type under a key of its own; see `Keeper.spawn`."""
        self._must_accept()
        await self._keeper.spawn(address, args)

    async def stop_actor(self, address: Address, *, kill: bool = False) -> None:
        """Stop an actor after its message, or kill it at once.

        Raises:
            ActorNotFound
        """
        self._find(address)
        await self._keeper.stop(address, kill=kill)

    def actors(self, tenant: str, namespace: str | None = None) -> list[ActorInfo]:
        """What lives."""
        return [self._info(actor) for actor in self._registry.of_tenant(tenant, namespace)]

    def info(self, address: Address) -> ActorInfo:
        """One actor.

        Raises:
            ActorNotFound
        """
        return self._info(self._find(address))

    def deployment(self, scope: Scope, actor_type: str) -> Deployment | None:
        """The deployment of one type."""
        return self._keeper.deployment(scope, actor_type)

    @property
    def ready(self) -> bool:
        """Whether work is accepted."""
        return self._accepting

    def counters(self) -> dict[str, float]:
        """Totals and gauges for /metrics."""
        return {
            "actors": self._registry.count,
            "ready_actors": self._scheduler.ready,
            "offloaded_actors": self._scheduler.offloaded,
            "messages_total": self._scheduler.messages,
            "preemptions_total": self._scheduler.preemptions,
            "offloads_total": self._scheduler.offloads,
            "crashes_total": self._keeper.crashes,
            "restarts_total": self._keeper.restarts,
        }

    # -- inside -------------------------------------------------------------------------------------------

    def _find(self, address: Address) -> Any:
        self._must_accept()
        actor = self._registry.find(address.scope, address.text)
        if actor is None:
            raise ActorNotFound(
                f"there is no actor {address.text!r} in namespace {address.scope.namespace!r}", actor=address.text
            )
        return actor

    def _must_accept(self) -> None:
        if not self._accepting:
            raise Unavailable("the node is stopping")

    def _info(self, actor: Any) -> ActorInfo:
        restarts, last_exit = self._keeper.restarts_of(actor.address)
        state = actor.run.value if actor.run in (Run.WAITING, Run.OFFLOADED) else actor.state.value
        return ActorInfo(
            address=actor.address,
            state=state,
            mailbox_messages=len(actor.mailbox),
            messages_handled=actor.handled,
            restarts=restarts,
            last_exit=last_exit.text if last_exit is not None else "",
            component_hash=actor.spec.component_hash,
            started_ms=actor.started_ms,
            cpu_ms=(actor.cpu_total_ns + actor.cpu_ns) / 1e6,
            waiting_for=tuple(sorted(ask.target.text for ask in actor.asks)),
        )

    def _set_ask_alarm(self, delay_s: float) -> None:
        if self._ask_alarm is not None:
            self._ask_alarm.cancel()
        self._ask_alarm = self._loop.call_later(delay_s, self._asks.ring)

    def _set_wall_alarm(self, delay_s: float) -> None:
        if self._wall_alarm is not None:
            self._wall_alarm.cancel()
        self._wall_alarm = self._loop.call_later(delay_s, self._scheduler.ring_walls)


class _Waiter:
    """Somebody outside who asked; the outcome may be there before anybody waits for it."""

    __slots__ = ("future", "outcome")

    def __init__(self) -> None:
        self.future: asyncio.Future[None] | None = None
        self.outcome: Outcome | None = None

    def ended(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


def _has_work(actor: Any) -> bool:
    return actor.state is State.BUSY or len(actor.mailbox) > 0


def _mailbox_full(address: Address, messages: int) -> MailboxFull:
    return MailboxFull(
        f"the mailbox of actor {address.text!r} is full ({messages} messages wait): try again later",
        actor=address.text,
        messages=messages,
    )
