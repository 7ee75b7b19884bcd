"""A node: it joins all parts, starts them in order and stops them in reverse.

Not a singleton: several nodes live in one process as well as in several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from .actors import exits
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
from .deployment.checks import Checks, Report
from .deployment.grants import GrantReport
from .deployment.model import Deployment
from .deployment.nodelinks import node_links
from .deployment.status import ApplicationStatus, TreeNode
from .durability.durability import Durability
from .durability.facet import DurabilityType
from .durability.journals import Journals
from .egress.credentials import VaultCredentials, secrets_of
from .egress.egress import Egress
from .egress.keys import KEY_BYTES, Keys, MasterKey, open_keys
from .egress.links import LinkState
from .egress.vault import Vault
from .egress.veil import Veil
from .errors import InvalidArgument, MailboxFull, PlexSpacesError, Unavailable
from .events import EventBus, NodeStarted, NodeStopping
from .facets.kind import Chain
from .facets.registry import FacetRegistry
from .facets.virtual_actor import MemoryStates, Residents
from .facets.workflow import Workflow, WorkflowType
from .host import Host
from .host.workflow import Runs
from .ids import Ids, SystemIds
from .isolation.processes import Processes
from .scheduler import Scheduler
from .scope import Address, Caller, Scope
from .stores.database import Database
from .stores.deployments import Record
from .stores.stores import Stores
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
        in_memory: keep the stores in memory, for simulations.
        database: in place of the data directory's own, for simulations of crashes.
        egress: makes the way out; for simulations of what is outside.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        sandbox: Callable[[Path, Limits], Sandbox] = Sandbox,
        in_memory: bool = False,
        database: Database | None = None,
        egress: Callable[..., Egress] = Egress,
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.quotas = config.quotas
        self.clock: Clock = clock or SystemClock()
        self.ids: Ids = ids or SystemIds()
        self.events = EventBus()
        self._make_sandbox = sandbox
        self._in_memory = in_memory
        self._database = database
        self._make_egress = egress
        self._node_links = node_links(config.links)
        self._accepting = False
        self._alarms: dict[str, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Make the parts and begin to accept work.

        Raises:
            Unavailable: the data directory cannot be used; the message says why and what to do.
        """
        loop = self._loop = asyncio.get_running_loop()
        limits = self.limits
        stores = self.stores = Stores(
            None if self._in_memory else self.config.data_dir,
            clock=self.clock,
            ids=self.ids,
            events=self.events,
            limits=limits,
            loop=loop,
            alarms=self._alarm,
            database=self._database,
        )
        await stores.start()
        try:
            self.vault = self._open_vault(stores)
        except PlexSpacesError:
            # Whoever mends it starts another node on the same data directory.
            await stores.stop()
            raise
        self._veil = Veil(self.vault.veil)
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
        self._durability = Durability(
            stores.journal,
            clock=self.clock,
            events=self.events,
            asks=self._asks,
            timers=host.timers,
            scheduler=self._scheduler,
            loop=loop,
            held=True,
        )
        self._runs = host.runs = Runs(host, stores.workflows, stores.promises)
        self._facets = FacetRegistry(
            self._residents,
            DurabilityType(self._durability),
            clock=self.clock,
            events=self.events,
            limits=limits,
            workflow=WorkflowType(self._runs),
        )
        self._processes = Processes(
            package=self._sandbox.package,
            components=self.config.cache_dir / "components",
            compiled_file=lambda program: self._sandbox.compiled_file(program),
            limits=limits,
            clock=self.clock,
            events=self.events,
            loop=loop,
            isolates=self.config.isolation == "process",
        )
        self._applications = Applications(
            sandbox=self._sandbox,
            processes=self._processes,
            scheduler=self._scheduler,
            registry=self._registry,
            asks=self._asks,
            clock=self.clock,
            ids=self.ids,
            events=self.events,
            limits=limits,
            facets=self._facets,
            residents=self._residents,
            kept=stores.deployments,
            permissions=host.permissions,
            loop=loop,
            set_links=lambda scope, application, links: self._egress.set_links(scope, application, links),
            veil=self._veil,
        )
        self.journals = Journals(
            self._durability,
            registry=self._registry,
            flushed=stores.flushed,
            stop=self._applications.stop,
            start=self._applications.bring_up,
        )
        host.spawner = self._applications
        host.vault, host.veil = self.vault, self._veil
        self._permissions = host.permissions
        host.audited = self.config.audit == "effects"
        self._exchanges = host.exchanges
        self._egress = host.egress = self._make_egress(
            clock=self.clock,
            ids=self.ids,
            events=self.events,
            loop=loop,
            credentials=VaultCredentials(self.vault, self.events),
            permitted=tuple(ip_network(text) for text in self.config.egress.permitted),
            node_links=self._node_links,
            flushed=stores.flushed,
        )
        host.keyvalue, host.locks, host.blobs = stores.keyvalue, stores.locks, stores.blobs
        host.tuplespace, host.channels, host.streams = stores.tuplespace, stores.channels, stores.streams
        self._sandbox.start()
        await self._applications.restore(self.config.restore_wait_s)
        self._accepting = True
        self._go_on()
        self.events.emit(NodeStarted())

    async def stop(self, grace_s: float | None = None) -> None:
        """Take no new work, finish what is running, stop every actor, free everything.

        Args:
            grace_s: how long running and waiting messages may take; the configured time if None.
        """
        if not self._accepting:
            return
        self._accepting = False
        # What is interrupted from now on goes on after the next start, and in no incarnation that is made meanwhile.
        self._durability.closing = self._durability.held = True
        grace_s = self.config.grace_s if grace_s is None else grace_s
        self.events.emit(NodeStopping(grace_s))
        deadline = self._loop.time() + grace_s
        self._suspend_runs()
        # Looked at now and then rather than told: only the end of a node's life pays for it, not every message.
        while self._loop.time() < deadline and any(_has_work(actor) for actor in self._registry):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self._suspend_runs()
        await self._applications.close(min(_TERMINATE_S, deadline - self._loop.time()))
        while self._scheduler.offloaded:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
        # At once: a request that is being given up may wait for a connection that the other closes.
        await asyncio.gather(self._exchanges.close(), self._egress.close())
        self._scheduler.close()
        await self._processes.close()
        await self._sandbox.close()
        for alarm in self._alarms.values():
            alarm.cancel()
        await self.stores.stop()

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
        kind: Kind = Kind.CALL,
    ) -> str:
        """Send a call and wait for the reply, JSON text.

        Args:
            payload: the arguments, a JSON object as text.
            timeout_s: seconds; the configured default if None.
            message_id: the caller's own, "" for a new one.
            trace: W3C traceparent.
            kind: a workflow's `run`, signal or query, instead of a call.

        Raises:
            ActorNotFound, MailboxFull, DeadlineExceeded, HandlerRefused, HandlerCrashed, ActorExited,
            LimitExceeded: the payload is too large.
            Unavailable: the disk refuses what the reply depends on.
        """
        actor = self._find(address)
        _check_kind(actor, kind)
        check_size("payload", payload, self.limits.payload_bytes_max)
        if self._veil.declared:
            payload = self._veil.drawn(address, op, payload)
        waiter = _Waiter()
        timeout_ns = self.limits.ask_timeout_ms * 1_000_000 if timeout_s is None else int(timeout_s * 1e9)
        deadline_ns = self.clock.monotonic_ns() + timeout_ns
        repeatable = bool(message_id)
        message_id = message_id or self.ids.next("m")
        pending = self._asks.open(message_id, actor.address, None, deadline_ns, waiter.ended)
        envelope = Envelope(message_id, kind, op, payload, None, caller, deadline_ns, trace, "", pending)
        envelope.repeatable = repeatable
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
        if not self.stores.settled:
            # Output commit: the reply may tell of what is not yet on disk.
            await self.stores.flushed()
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
        kind: Kind = Kind.CAST,
    ) -> str:
        """Send a cast; its id comes back as soon as it is in the mailbox.

        Raises:
            ActorNotFound, MailboxFull, LimitExceeded: the payload is too large.
            Unavailable: the disk refuses what a durable actor is told.
        """
        actor = self._find(address)
        _check_kind(actor, kind)
        check_size("payload", payload, self.limits.payload_bytes_max)
        if self._veil.declared:
            payload = self._veil.drawn(address, op, payload)
        envelope = Envelope(message_id or self.ids.next("m"), kind, op, payload, None, caller, 0, trace)
        envelope.repeatable = bool(message_id)
        if not self._scheduler.deliver(actor, envelope):
            raise _mailbox_full(address, len(actor.mailbox))
        if actor.keeper is not None and not self.stores.settled:
            # Accepted means kept.
            await self.stores.flushed()
        return envelope.id

    def links(self, tenant: str) -> list[LinkState]:
        """A tenant's ways out, and the node's that it may use."""
        return self._egress.states(tenant)

    def secret_users(self, tenant: str) -> dict[str, list[str]]:
        """By secret, the links of a tenant that name it: `namespace/link`, or `link` for the node's."""
        users: dict[str, list[str]] = {}
        for namespace, link in self._egress.links_of(tenant):
            for name in secrets_of(link.auth):
                users.setdefault(name, []).append(f"{namespace}/{link.name}" if namespace else link.name)
        return users

    def veiled(self, address: Address, op: str, payload: str) -> str:
        """A message's arguments as its receiver may see them, and anybody may keep them: see `Veil.drawn`.

        Raises:
            InvalidArgument, LimitExceeded, Unavailable
        """
        return self._veil.drawn(address, op, payload)

    # -- deployments and actors ---------------------------------------------------------------------------

    async def deploy(
        self, scope: Scope, actor_type: str, wasm: bytes | Path, config: Mapping[str, Any] | None = None
    ) -> Deployment:
        """Deploy one actor type; see `Applications.deploy`."""
        self._must_accept()
        deployment = await self._applications.deploy(scope, actor_type, wasm, config or {})
        await self._recorded()
        return deployment

    async def check(self, scope: Scope, actor_type: str, wasm: bytes | Path, config: Mapping[str, Any]) -> Report:
        """Try a component against what the durable actors of a type have recorded; see `deployment.checks`.

        Raises:
            InvalidComponent, InvalidArgument, LimitExceeded
        """
        self._must_accept()
        spec = await self._applications.try_on(scope, actor_type, wasm, config)
        await self.stores.flushed()
        return await Checks(self._durability, self._scheduler, self._loop).check(scope, actor_type, spec)

    async def undeploy(self, scope: Scope, actor_type: str) -> None:
        """Stop a type's actors and forget it."""
        self._must_accept()
        await self._applications.undeploy(scope, actor_type)
        await self._recorded()

    def deployments(self, tenant: str, namespace: str | None = None) -> list[Deployment]:
        """What is deployed."""
        return self._applications.deployments(tenant, namespace)

    async def spawn(self, address: Address, args: Mapping[str, Any] | None = None) -> None:
        """Start an actor of a deployed type under a key of its own; see `Applications.spawn`."""
        self._must_accept()
        await self._applications.spawn(address, args)
        await self._recorded()

    async def stop_actor(self, address: Address, *, kill: bool = False) -> None:
        """Stop an actor after its message, or kill it at once; it stays down until `restart_actor`.

        Raises:
            ActorNotFound
        """
        self._must_accept()
        if self._registry.find(address.scope, address.text) is None:
            raise self._applications.absent(address)
        await self._applications.stop_for_good(address, kill=kill)
        await self._recorded()

    async def restart_actor(self, address: Address) -> None:
        """Stop an actor, if it runs, and start it again; see `Applications.restart`."""
        self._must_accept()
        await self._applications.restart(address)
        await self._recorded()

    # -- applications -------------------------------------------------------------------------------------

    async def deploy_application(
        self, tenant: str, config: AppConfig, components: Mapping[str, Path]
    ) -> ApplicationStatus:
        """Deploy an application, or change one; see `Applications.deploy_application`."""
        self._must_accept()
        status = await self._applications.deploy_application(tenant, config, components)
        await self._recorded()
        return status

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
        status = await self._applications.restart_application(tenant, name)
        await self._recorded()
        return status

    async def undeploy_application(self, tenant: str, name: str) -> None:
        """Stop an application and forget it.

        Raises:
            NotFound
        """
        self._must_accept()
        await self._applications.undeploy_application(tenant, name)
        await self._recorded()

    def deployed_as(self, scope: Scope, kind: str, name: str) -> Record | None:
        """What is kept of a deployment, to be started again with the node."""
        return self.stores.deployments.find(scope, kind, name)

    def grants(self, scope: Scope, actor_type: str) -> GrantReport:
        """What a type may do, was refused and was seen to do.

        Raises:
            NotFound
        """
        return self._applications.grants(scope, actor_type)

    def observe(self, scope: Scope, actor_type: str, *, on: bool) -> None:
        """Begin or end to keep what actors of a type use; it need not be deployed yet.

        Raises:
            LimitExceeded
        """
        if on:
            self._permissions.watch(scope, actor_type)
        else:
            self._permissions.unwatch(scope, actor_type)

    def namespaces(self, tenant: str) -> list[str]:
        """Where a tenant has something deployed."""
        return self._applications.namespaces(tenant)

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
    def home_tenant(self) -> str:
        """The tenant of the local token: its administrators run the node."""
        return self.config.tenant

    @property
    def ready(self) -> bool:
        """Whether work is accepted."""
        return self._accepting

    def waits_for(self, address: Address) -> str:
        """What the run of a workflow waits for just now, "" if for nothing."""
        return self._runs.waits_for(address)

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

    def _open_vault(self, stores: Stores) -> Vault:
        """The vault, under the master key of the data directory or the environment.

        Raises:
            InvalidArgument: a key file can be read by others, or holds no key.
            Unavailable: what is kept was written under another key.
        """
        in_use = next((row.master for row in stores.secrets.key_rows()), None)
        if self._in_memory or self._database is not None:
            # A simulation has no secrets, and no files.
            keys = Keys(MasterKey(bytes(KEY_BYTES)))
        else:
            keys = open_keys(self.config.secrets, self.config.data_dir, in_use, self.ids)
        vault = Vault(
            stores.secrets,
            keys,
            clock=self.clock,
            ids=self.ids,
            events=self.events,
            limits=self.limits,
            flushed=stores.flushed,
        )
        vault.load()
        return vault

    def _go_on(self) -> None:
        """Let what was interrupted go on, now that everybody is there again."""
        for address in self._durability.unfinished():
            # A virtual actor lives from now on, and any other that is deployed does already.
            self._registry.resolve(address.scope, address.text)
        self._durability.go_on()

    def _suspend_runs(self) -> None:
        """Runs of workflows go on when the node is back.  They must not see the others stop: to a run, an actor that is
        not there is a failure."""
        for actor in list(self._registry):
            if actor.current is not None and actor.current.kind is Kind.RUN:
                self._scheduler.kill(actor, exits.SHUTDOWN)

    def _find(self, address: Address) -> Any:
        self._must_accept()
        actor = self._registry.resolve(address.scope, address.text)
        if actor is None:
            raise self._applications.absent(address)
        return actor

    async def _recorded(self) -> None:
        """Nobody is told that it is so before it would be so after a crash."""
        await self.stores.deployments.settle()

    def _must_accept(self) -> None:
        if not self._accepting:
            raise Unavailable("the node takes no work: it is starting or stopping")

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
            capabilities={layer.origin: layer.entries for layer in actor.spec.capabilities.layers},
            refused=self._permissions.refusals(actor.address.scope, actor.address.type),
        )

    def _alarm(self, name: str, ring: Callable[[], None]) -> Callable[[float | None], None]:
        """What sets an alarm of its own; setting it again replaces it, and None takes it back."""

        def set_alarm(delay_s: float | None) -> None:
            if (before := self._alarms.pop(name, None)) is not None:
                before.cancel()
            if delay_s is not None:
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


def _check_kind(actor: Any, kind: Kind) -> None:
    """Refuse what only a workflow understands."""
    if kind in (Kind.CALL, Kind.CAST) or (isinstance(actor.facets, Chain) and actor.facets.find(Workflow) is not None):
        return
    raise InvalidArgument(f"actor {actor.address.text!r} is no workflow: it has no {kind.value}")


def _mailbox_full(address: Address, messages: int) -> MailboxFull:
    return MailboxFull(
        f"the mailbox of actor {address.text!r} is full ({messages} messages wait): try again later",
        actor=address.text,
        messages=messages,
    )
