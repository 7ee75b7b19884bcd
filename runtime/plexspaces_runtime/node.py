"""A node: it joins all parts, starts them in order and stops them in reverse.

Not a singleton: several nodes live in one process as well as in several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
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
from .config import Limits, NodeConfig
from .deployment.appconfig import AppConfig, FacetTypes
from .deployment.applications import Applications
from .deployment.model import Deployment
from .deployment.status import ApplicationStatus, TreeNode
from .errors import MailboxFull, PlexSpacesError, Unavailable
from .events import EventBus, NodeStarted, NodeStopping
from .facets.kind import Chain
from .facets.registry import FacetRegistry
from .facets.virtual_actor import MemoryStates, Residents
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
        sandbox: makes what holds the guests, from the cache directory and the limits.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        sandbox: Callable[[Path, Limits], Sandbox] = Sandbox,
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.clock: Clock = clock or SystemClock()
        self.ids: Ids = ids or SystemIds()
        self.events = EventBus()
        self._make_sandbox = sandbox
        self._accepting = False
        self._alarms: dict[str, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Make the parts and begin to accept work."""
        loop = self._loop = asyncio.get_running_loop()
        limits = self.limits
        self._registry = Registry(limits.actors_per_tenant_max)
        self._asks = Asks(self.clock, self._alarm("asks", lambda: self._asks.ring()))
        self._sandbox = self._make_sandbox(self.config.cache_dir, limits)
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
            release=host.release,
            set_wall_alarm=self._alarm("walls", lambda: self._scheduler.ring_walls()),
        )
        self._residents = Residents(
            scheduler=self._scheduler,
            clock=self.clock,
            events=self.events,
            limits=limits,
            set_alarm=self._alarm("residents", lambda: self._residents.ring()),
            states=MemoryStates(limits.virtual_state_bytes_per_tenant_max),
        )
        self._facets = FacetRegistry(self._residents, clock=self.clock, events=self.events, limits=limits)
        self._applications = Applications(
            sandbox=self._sandbox,
            scheduler=self._scheduler,
            registry=self._registry,
            asks=self._asks,
            clock=self.clock,
            ids=self.ids,
            events=self.events,
            limits=limits,
            facets=self._facets,
            residents=self._residents,
            loop=loop,
        )
        host.spawner = self._applications
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
        deadline = self._loop.time() + grace_s
        # Looked at now and then rather than told: only the end of a node's life pays for it, not every message.
        while self._loop.time() < deadline and any(_has_work(actor) for actor in self._registry):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self._applications.close(min(_TERMINATE_S, deadline - self._loop.time()))
        while self._scheduler.offloaded:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
        self._scheduler.close()
        await self._sandbox.close()
        for alarm in self._alarms.values():
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
        try:
            delivered = self._scheduler.deliver_and_run(actor, envelope)
        except PlexSpacesError:
            self._asks.abandon(pending)
            raise
        if not delivered:
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
        """Deploy one actor type; see `Applications.deploy`."""
        self._must_accept()
        return await self._applications.deploy(scope, actor_type, wasm, config or {})

    async def undeploy(self, scope: Scope, actor_type: str) -> None:
        """Stop a type's actors and forget it."""
        self._must_accept()
        await self._applications.undeploy(scope, actor_type)

    def deployments(self, tenant: str, namespace: str | None = None) -> list[Deployment]:
        """What is deployed."""
        return self._applications.deployments(tenant, namespace)

    async def spawn(self, address: Address, args: Mapping[str, Any] | None = None) -> None:
        """Start an actor of a deployed type under a key of its own; see `Applications.spawn`."""
        self._must_accept()
        await self._applications.spawn(address, args)

    async def stop_actor(self, address: Address, *, kill: bool = False) -> None:
        """Stop an actor after its message, or kill it at once; it stays down until `restart_actor`.

        Raises:
            ActorNotFound
        """
        self._must_accept()
        if self._registry.find(address.scope, address.text) is None:
            raise self._applications.absent(address)
        await self._applications.stop(address, kill=kill)

    async def restart_actor(self, address: Address) -> None:
        """Stop an actor, if it runs, and start it again; see `Applications.restart`."""
        self._must_accept()
        await self._applications.restart(address)

    # -- applications -------------------------------------------------------------------------------------

    async def deploy_application(
        self, tenant: str, config: AppConfig, components: Mapping[str, Path]
    ) -> ApplicationStatus:
        """Deploy an application, or change one; see `Applications.deploy_application`."""
        self._must_accept()
        return await self._applications.deploy_application(tenant, config, components)

    def applications(self, tenant: str, namespace: str | None = None) -> list[ApplicationStatus]:
        """A tenant's applications."""
        return self._applications.applications(tenant, namespace)

    def application(self, tenant: str, name: str) -> ApplicationStatus:
        """One application.

        Raises:
            NotFound
        """
        return self._applications.application(tenant, name)

    async def restart_application(self, tenant: str, name: str) -> ApplicationStatus:
        """Stop an application's tree and start it again; see `Applications.restart_application`."""
        self._must_accept()
        return await self._applications.restart_application(tenant, name)

    async def undeploy_application(self, tenant: str, name: str) -> None:
        """Stop an application and forget it.

        Raises:
            NotFound
        """
        self._must_accept()
        await self._applications.undeploy_application(tenant, name)

    def tree(self, tenant: str, namespace: str | None = None) -> list[TreeNode]:
        """A tenant's supervision trees."""
        return self._applications.tree(tenant, namespace)

    # -- what runs ----------------------------------------------------------------------------------------

    def actors(self, tenant: str, namespace: str | None = None) -> list[ActorInfo]:
        """What lives."""
        return [self._info(actor) for actor in self._registry.of_tenant(tenant, namespace)]

    def info(self, address: Address) -> ActorInfo:
        """One actor.

        Raises:
            ActorNotFound
        """
        actor = self._registry.find(address.scope, address.text)
        if actor is None:
            raise self._applications.absent(address)
        return self._info(actor)

    def deployment(self, scope: Scope, actor_type: str) -> Deployment | None:
        """The deployment of one type."""
        return self._applications.deployment(scope, actor_type)

    @property
    def facet_types(self) -> FacetTypes:
        """The facets that applications may name, each with what checks its configuration."""
        return self._facets.parsers

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
            "crashes_total": self._applications.forest.crashes,
            "restarts_total": self._applications.forest.restarts,
            **self._residents.counters(),
        }

    # -- inside -------------------------------------------------------------------------------------------

    def _find(self, address: Address) -> Any:
        self._must_accept()
        actor = self._registry.resolve(address.scope, address.text)
        if actor is None:
            raise self._applications.absent(address)
        return actor

    def _must_accept(self) -> None:
        if not self._accepting:
            raise Unavailable("the node is stopping")

    def _info(self, actor: Any) -> ActorInfo:
        place = self._applications.place(actor.address)
        last_exit = place.last_exit if place is not None else None
        state = actor.run.value if actor.run in (Run.WAITING, Run.OFFLOADED) else actor.state.value
        return ActorInfo(
            address=actor.address,
            state=state,
            mailbox_messages=len(actor.mailbox),
            messages_handled=actor.handled,
            restarts=place.restarts if place is not None else 0,
            last_exit=last_exit.text if last_exit is not None else "",
            component_hash=actor.spec.component_hash,
            started_ms=actor.started_ms,
            cpu_ms=(actor.cpu_total_ns + actor.cpu_ns) / 1e6,
            waiting_for=tuple(sorted(ask.target.text for ask in actor.asks)),
            facets=actor.facets.report() if isinstance(actor.facets, Chain) else {},
        )

    def _alarm(self, name: str, ring: Callable[[], None]) -> Callable[[float], None]:
        """What sets an alarm of its own; setting it again replaces it."""

        def set_alarm(delay_s: float) -> None:
            if (before := self._alarms.get(name)) is not None:
                before.cancel()
            self._alarms[name] = self._loop.call_later(delay_s, ring)

        return set_alarm


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
