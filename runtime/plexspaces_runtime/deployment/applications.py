"""Applications: supervision trees that are deployed, changed, watched and stopped as one.

A type that is deployed on its own is an application too, with one supervisor and one child.  The node is the parent of
every application's top: one that fails is started again with exponential back-off, and the others never notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from ..actors.actor import Actor, ActorSpec
from ..actors.asks import Asks
from ..actors.exits import Exit
from ..actors.facets import Facets
from ..actors.registry import Registry
from ..clock import Clock
from ..config import Limits
from ..errors import (
    ActorNotFound,
    Conflict,
    HandlerCrashed,
    InvalidArgument,
    NotFound,
    PlexSpacesError,
    Unavailable,
)
from ..events import (
    ApplicationDeployed,
    ApplicationFailed,
    ApplicationRefused,
    ApplicationRestarted,
    ApplicationStopped,
    ComponentDeployed,
    DeploymentRefused,
    EventBus,
    Undeployed,
)
from ..facets.registry import FacetRegistry
from ..facets.virtual_actor import Residents
from ..ids import Ids
from ..scheduler import Scheduler
from ..scope import Address, Scope, check_name
from ..supervision import core
from ..supervision.spec import ChildSpec, RestartPolicy, Strategy, SupervisorSpec
from ..supervision.supervisor import Branch, Forest, Place, Report, Supervisor, Worker
from ..supervision.top import Failures
from ..wasm.engine import Sandbox
from .appconfig import AppConfig, ChildConfig, FacetConfig, SupervisorConfig
from .model import DeployConfig, Deployment, choose_role
from .status import ApplicationStatus, TreeNode
from .types import ActorType, Code, Component, Types

_VIRTUAL: Final = "virtual_actor"


class State(Enum):
    """Of an application."""

    STARTING = "starting"
    RUNNING = "running"
    # It failed, and the node waits before it starts it again.
    FAILED = "failed"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Detail:
    """What makes another actor of an actor, so that a change of it restarts the child.

    Attributes:
        args: a JSON object of its own; None for those of its type.
        limits: None for the node's.
    """

    facets: tuple[FacetConfig, ...] = ()
    limits: Limits | None = None
    args: str | None = None


class Application:
    """One application.

    Args:
        kind: "application", or "deployment" for a type deployed on its own.
    """

    def __init__(self, scope: Scope, name: str, kind: str) -> None:
        self.scope = scope
        self.name = name
        self.kind = kind
        self.state = State.STARTING
        self.version = 0
        self.restarts = 0
        self.last_exit: Exit | None = None
        self.failures = Failures()
        self.next_start_ms = 0
        self.changes: tuple[str, ...] = ()
        self.components: dict[str, str] = {}
        self.top = Branch(name, SupervisorSpec())
        self.timer: asyncio.TimerHandle | None = None
        # One deployment, restart or stop at a time.
        self.lock = asyncio.Lock()
        # Told how the start under way ends, and when the tree has ended.
        self.starting: asyncio.Future[Exit | None] | None = None
        self.ending: asyncio.Future[None] | None = None

    @property
    def title(self) -> str:
        """How it is called in a sentence."""
        return f"application {self.name!r}" if self.kind == "application" else f"the deployed type {self.name!r}"


@dataclass(slots=True)
class _Draft:
    """A tree as a configuration wants it, before anything of it is done."""

    specs: list[tuple[Branch, SupervisorSpec]] = field(default_factory=list)
    types: dict[str, ActorType] = field(default_factory=dict)
    details: dict[str, Detail] = field(default_factory=dict)


class Applications:
    """All applications of a node."""

    def __init__(
        self,
        *,
        sandbox: Sandbox,
        scheduler: Scheduler,
        registry: Registry,
        asks: Asks,
        clock: Clock,
        ids: Ids,
        events: EventBus,
        limits: Limits,
        facets: FacetRegistry,
        residents: Residents,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._clock = clock
        self._ids = ids
        self._events = events
        self._limits = limits
        self._facets = facets
        self._residents = residents
        self._loop = loop
        self._types = Types(
            sandbox=sandbox, scheduler=scheduler, registry=registry, events=events, limits=limits, loop=loop
        )
        self.forest = Forest(
            scheduler=scheduler, registry=registry, asks=asks, clock=clock, events=events, loop=loop, keepers=self
        )
        # By tenant and name.
        self._applications: dict[tuple[str, str], Application] = {}
        # Types deployed on their own.
        self._deployments: dict[tuple[Scope, str], Application] = {}
        self.closing = False
        registry.activate = self.activate

    # -- what the shell of supervision asks ---------------------------------------------------------------

    def spec(self, worker: Worker, capabilities: frozenset[str] | None) -> ActorSpec:
        """See `Keepers.spec`."""
        type_ = self._types.get(worker.address.scope, worker.address.type)
        if type_ is None:
            raise NotFound(f"actor type {worker.address.type!r} is not deployed any more")
        detail: Detail = worker.detail
        return self._types.spec(type_.code, detail.limits, capabilities, detail.args)

    def facets(self, worker: Worker) -> Facets | None:
        """See `Keepers.facets`."""
        detail: Detail = worker.detail
        return self._facets.chain(detail.facets, worker.address)

    def launch(self, place: Place, actor: Actor, on_started: Callable[[Exit | None], None]) -> None:
        """See `Keepers.launch`."""
        type_ = self._types.get(actor.address.scope, actor.address.type)
        if type_ is not None and type_.virtual:
            self._residents.launch(actor, on_started)
        else:
            self._scheduler.start(actor, None, on_started)

    def vacated(self, place: Place, exit_: Exit) -> bool:
        """See `Keepers.vacated`: a virtual actor with messages waiting comes to life again for them."""
        address = place.worker.address
        type_ = self._types.get(address.scope, address.type)
        if type_ is None or not type_.virtual or len(place.mailbox) == 0 or self.closing:
            return False
        if type_.home.live is None or type_.home.live is not place.supervisor or not place.began:
            return False
        try:
            self._activate(type_, address, place.mailbox)
        except PlexSpacesError:
            return False
        return True

    # -- types deployed on their own ----------------------------------------------------------------------

    async def deploy(self, scope: Scope, actor_type: str, wasm: bytes | Path, config: Mapping[str, Any]) -> Deployment:
        """Make `wasm` the code of an actor type: start its actor, or let the living ones go on with the new code.

        Raises:
            InvalidComponent: not a sealed component of our world.
            InvalidArgument: the configuration is wrong.
            HandlerCrashed: the actor's `init` failed; nothing was deployed.
            Conflict: a living actor's state did not fit the new version, and all stay at the old one; or the name
                belongs to an application.
        """
        check_name("actor type", actor_type)
        key = (scope, actor_type)
        known = self._deployments.get(key)
        # Put in at once, so that two first deployments of one type come one after the other.
        application = known or self._deployments.setdefault(key, Application(scope, actor_type, "deployment"))
        try:
            async with application.lock:
                self._deployments.setdefault(key, application)
                try:
                    wanted = DeployConfig.parse(config, self._types.interfaces)
                    self._types.check_free(scope, actor_type, application)
                    component = await self._types.load(wasm, scope)
                    child = _lone_child(actor_type, wanted)
                    await self._deploy(application, SupervisorConfig(children=(child,)), {actor_type: component})
                finally:
                    if application.version == 0:
                        self._deployments.pop(key, None)
        except PlexSpacesError as error:
            self._events.emit(DeploymentRefused(scope, actor_type, error.code, error.message))
            raise
        type_ = self._types.get(scope, actor_type)
        assert type_ is not None
        deployment = type_.deployment
        self._events.emit(
            ComponentDeployed(scope, actor_type, deployment.hash, deployment.version, deployment.size_bytes)
        )
        return deployment

    async def undeploy(self, scope: Scope, actor_type: str) -> None:
        """Stop a type's actors and forget it.

        Raises:
            NotFound
            Conflict: it belongs to an application.
        """
        application = self._deployments.get((scope, actor_type))
        if application is None:
            self._types.check_free(scope, actor_type, None)
            raise NotFound(f"actor type {actor_type!r} is not deployed in namespace {scope.namespace!r}")
        async with application.lock:
            await self._stop(application)
            if self._deployments.pop((scope, actor_type), None) is None:
                raise NotFound(f"actor type {actor_type!r} is not deployed in namespace {scope.namespace!r}")
            self._drop(scope, actor_type)
        self._events.emit(Undeployed(scope, actor_type))

    def deployments(self, tenant: str, namespace: str | None = None) -> list[Deployment]:
        """What is deployed for a tenant, by name; an application's types too."""
        return [type_.deployment for type_ in self._types.of_tenant(tenant, namespace)]

    def deployment(self, scope: Scope, actor_type: str) -> Deployment | None:
        """One type."""
        type_ = self._types.get(scope, actor_type)
        return type_.deployment if type_ is not None else None

    # -- applications -------------------------------------------------------------------------------------

    async def deploy_application(
        self, tenant: str, config: AppConfig, components: Mapping[str, Path]
    ) -> ApplicationStatus:
        """Start an application, or let one of the same name go over to another configuration and other components.

        Only what differs changes: new and removed children start and stop, those whose code or arguments changed go on
        with their state, and those whose facets or limits changed are restarted.

        Args:
            components: wasm by the component's name in the configuration.

        Raises:
            InvalidComponent, InvalidArgument, LimitExceeded
            Conflict: a type's name is taken, or a living actor could not take over its state; nothing was changed.
            HandlerCrashed: an actor's `init` failed; a new application is gone again, a changed one is as it was.
        """
        scope = Scope(tenant, config.namespace)
        key = (tenant, config.name)
        application = self._applications.get(key) or self._applications.setdefault(
            key, Application(scope, config.name, "application")
        )
        try:
            async with application.lock:
                self._applications.setdefault(key, application)
                try:
                    if application.scope != scope:
                        raise Conflict(
                            f"application {config.name!r} runs in namespace {application.scope.namespace!r}: undeploy "
                            "it there first, or choose another name"
                        )
                    missing = [each.name for each in config.components if each.name not in components]
                    if missing:
                        raise InvalidArgument(f"the component {', '.join(map(repr, missing))} was not uploaded")
                    loaded = {name: await self._types.load(path, scope) for name, path in components.items()}
                    await self._deploy(application, config.supervisor, loaded)
                finally:
                    if application.version == 0:
                        self._applications.pop(key, None)
        except PlexSpacesError as error:
            self._events.emit(ApplicationRefused(scope, config.name, error.code, error.message))
            raise
        self._events.emit(ApplicationDeployed(scope, config.name, application.version, application.changes))
        return self._status(application)

    def applications(self, tenant: str, namespace: str | None = None) -> list[ApplicationStatus]:
        """A tenant's applications, by name."""
        return [
            self._status(application)
            for (owner, _), application in sorted(self._applications.items())
            if owner == tenant and namespace in (None, application.scope.namespace) and application.version
        ]

    def application(self, tenant: str, name: str) -> ApplicationStatus:
        """One application.

        Raises:
            NotFound
        """
        return self._status(self._application(tenant, name))

    async def restart_application(self, tenant: str, name: str) -> ApplicationStatus:
        """Stop an application's tree and start it again.

        Raises:
            NotFound
            HandlerCrashed: an actor's `init` failed; the node goes on trying.
        """
        application = self._application(tenant, name)
        async with application.lock:
            await self._stop(application)
            await self._restart(application)
        return self._status(application)

    async def undeploy_application(self, tenant: str, name: str) -> None:
        """Stop an application and forget it.

        Raises:
            NotFound
        """
        application = self._application(tenant, name)
        async with application.lock:
            await self._stop(application)
            self._applications.pop((tenant, name), None)
            for type_ in self._types.of_owner(application):
                self._drop(type_.scope, type_.name)
        self._events.emit(ApplicationStopped(application.scope, name, "undeployed"))

    def _application(self, tenant: str, name: str) -> Application:
        application = self._applications.get((tenant, name))
        if application is None or not application.version:
            raise NotFound(f"there is no application {name!r}", application=name)
        return application

    # -- deploying ----------------------------------------------------------------------------------------

    async def _deploy(
        self, application: Application, wanted: SupervisorConfig, components: Mapping[str, Component]
    ) -> None:
        draft = self._draft(application, wanted, components)
        if application.version == 0 or application.top.live is None:
            await self._first(application, draft)
        else:
            await self._change(application, draft)
        application.version += 1
        application.components = {name: component.hash for name, component in components.items()}

    async def _first(self, application: Application, draft: _Draft) -> None:
        """Start a tree where none is."""
        old = {type_.name: type_ for type_ in self._types.of_owner(application)}
        before = application.top
        self._cancel_start(application)
        self._adopt(draft, old)
        application.top = draft.specs[0][0]
        try:
            await self._begin(application)
        except HandlerCrashed:
            application.top = before
            for name in draft.types:
                self._types.drop(application.scope, name)
            for type_ in old.values():
                self._types.put(type_)
            if application.version:
                # It was waiting for another try, and still is.
                self._fail(application)
            raise
        application.changes = tuple(f"started {name}" for name in draft.types)

    async def _change(self, application: Application, draft: _Draft) -> None:
        """Let a living tree become another."""
        old = {type_.name: type_ for type_ in self._types.of_owner(application)}
        old_specs = [(branch, branch.spec) for branch in _branches(application.top)]
        old_details = self._details(application.top)
        changed = {
            name: type_.code for name, type_ in draft.types.items() if name in old and old[name].code != type_.code
        }
        scope = application.scope
        await self._types.upgrade(changed, scope, self._spec_under)
        self._adopt(draft, {})
        try:
            await self._replace(draft.specs)
        except PlexSpacesError:
            for name in draft.types.keys() - old.keys():
                self._types.drop(scope, name)
            for type_ in old.values():
                self._types.put(type_)
            await self._replace(old_specs)
            await self._types.upgrade({name: old[name].code for name in changed}, scope, self._spec_under)
            raise
        for name in old.keys() - draft.types.keys():
            await self._end_all(scope, name)
            self._drop(scope, name)
        again = [
            name for name in draft.types if name in old_details and draft.details.get(name) != old_details.get(name)
        ]
        application.changes = (
            *(f"stopped {name}" for name in old if name not in draft.types),
            *(f"started {name}" for name in draft.types if name not in old),
            *(f"upgraded {name}" for name in changed),
            *(f"restarted {name}" for name in again if name not in changed),
        )
        await self._start_stopped(application, draft)

    def _drop(self, scope: Scope, actor_type: str) -> None:
        """Forget a type that is gone, and what its virtual actors had in mind."""
        self._types.drop(scope, actor_type)
        self._residents.forget(scope, actor_type)

    def _adopt(self, draft: _Draft, old: Mapping[str, ActorType]) -> None:
        for name in old.keys() - draft.types.keys():
            self._types.drop(old[name].scope, name)
        for branch, spec in draft.specs:
            branch.spec = spec
        for type_ in draft.types.values():
            self._types.put(type_)

    async def _replace(self, specs: list[tuple[Branch, SupervisorSpec]]) -> None:
        """Hand each supervisor its specification, from the top down; those that start meanwhile have it already."""
        for branch, spec in specs:
            branch.spec = spec
        for branch, spec in specs:
            if branch.live is not None and branch.live.core.spec is not spec:
                await self._request(branch.live, partial(core.Replace, spec=spec))

    async def _start_stopped(self, application: Application, draft: _Draft) -> None:
        """A deployment brings up what an operator had stopped."""
        for type_ in draft.types.values():
            address = Address(application.scope, type_.name)
            if not type_.virtual and self._registry.find(address.scope, address.text) is None:
                live = type_.home.live
                if live is not None and live.core.knows(type_.name):
                    await self._request(live, partial(core.RestartChild, child_id=type_.name))

    async def _end_all(self, scope: Scope, actor_type: str) -> None:
        """End what still lives of a type that is gone: actors that others have spawned."""
        for actor in self._registry.of_type(scope, actor_type):
            await self.stop(actor.address)

    def _spec_under(self, actor: Actor, code: Code) -> ActorSpec:
        """What a living actor would be under another code."""
        place = self.forest.places[actor.address]
        detail: Detail = place.worker.detail
        return self._types.spec(code, detail.limits, place.capabilities, detail.args)

    # -- drafts -------------------------------------------------------------------------------------------

    def _draft(
        self, application: Application, wanted: SupervisorConfig, components: Mapping[str, Component]
    ) -> _Draft:
        """Check a configuration against its components, and lay out the tree.

        Raises:
            InvalidArgument, Conflict
        """
        draft = _Draft()
        # Of a tree that runs, supervisors that stay keep their branch: a change is handed to them.
        top = application.top if application.top.live is not None else Branch(application.name, SupervisorSpec())
        self._lay_out(application, top, wanted, components, draft)
        return draft

    def _lay_out(
        self,
        application: Application,
        branch: Branch,
        wanted: SupervisorConfig,
        components: Mapping[str, Component],
        draft: _Draft,
    ) -> None:
        position = len(draft.specs)
        draft.specs.append((branch, branch.spec))
        present = {child.id: child.content for child in branch.spec.children}
        children: list[ChildSpec] = []
        for child in wanted.children:
            content: Any
            if child.supervisor is not None:
                content = self._branch_of(present.get(child.name), child.name)
                self._lay_out(application, content, child.supervisor, components, draft)
            else:
                dynamic = wanted.strategy is Strategy.SIMPLE_ONE_FOR_ONE
                content = self._worker(application, branch, child, components[child.actor_type], present, draft)
                if not dynamic and draft.types[child.name].virtual:
                    content = self._nursery(content, child, present, draft)
            children.append(
                ChildSpec(
                    id=child.name,
                    content=content,
                    restart=child.restart,
                    shutdown_s=child.shutdown_s,
                    significant=child.significant,
                )
            )
        draft.specs[position] = (
            branch,
            SupervisorSpec(
                wanted.strategy,
                wanted.restarts_max,
                wanted.window_s,
                wanted.auto_shutdown,
                wanted.backoff,
                tuple(children),
            ),
        )

    def _branch_of(self, present: Any, name: str) -> Branch:
        return present if isinstance(present, Branch) and present.live is not None else Branch(name, SupervisorSpec())

    def _nursery(self, worker: Worker, child: ChildConfig, present: Mapping[str, Any], draft: _Draft) -> Branch:
        """The supervisor of a virtual type's actors, which come and go, and are nobody's business when they crash:
        the next message brings them back."""
        branch = self._branch_of(present.get(child.name), child.name)
        template = ChildSpec(child.name, worker, RestartPolicy.TEMPORARY, child.shutdown_s)
        draft.specs.append((branch, SupervisorSpec(Strategy.SIMPLE_ONE_FOR_ONE, children=(template,))))
        draft.types[child.name].home = branch
        return branch

    def _worker(
        self,
        application: Application,
        home: Branch,
        child: ChildConfig,
        component: Component,
        present: Mapping[str, Any],
        draft: _Draft,
    ) -> Worker:
        scope = application.scope
        if child.name in draft.types:
            raise Conflict(f"two children are called {child.name!r}: an actor type is what its child is called")
        self._types.check_free(scope, child.name, application)
        facets = self._facets.parse_all(child.facets)
        role = choose_role(component.description, child.name, child.role)
        described = component.description["roles"][role]
        _check_behaviour(child, described)
        loaded = component.program.loaded
        code = Code(
            component_hash=component.hash,
            role=role,
            args=orjson.dumps(child.args).decode(),
            facets=orjson.dumps(
                {"arguments": child.arguments, **{facet.type: dict(facet.config) for facet in child.facets}}
            ).decode(),
            capabilities=child.capabilities,
            labels=dict(child.labels),
            component=component,
        )
        before = self._types.get(scope, child.name)
        draft.types[child.name] = ActorType(
            scope=scope,
            name=child.name,
            owner=application,
            code=code,
            deployment=Deployment(
                scope=scope,
                actor_type=child.name,
                hash=component.hash,
                size_bytes=loaded.size_bytes,
                imports=tuple(loaded.audit.imports),
                roles=tuple(component.description["roles"]),
                handlers=described["handlers"],
                version=_next_version(application, before, code),
                replaced=before is not None,
            ),
            home=home,
            virtual=any(facet.name == _VIRTUAL for facet in facets),
        )
        detail = Detail(tuple(child.facets), replace(self._limits, **child.limits) if child.limits else None)
        draft.details[child.name] = detail
        worker = Worker(Address(scope, child.name), detail)
        was = present.get(child.name)
        # The very same object where nothing changed, so that the child is left alone.
        return was if was == worker else worker

    def _details(self, top: Branch) -> dict[str, Detail]:
        return {
            child.content.address.type: child.content.detail
            for branch in _branches(top)
            for child in branch.spec.children
            if isinstance(child.content, Worker)
        }

    # -- trees that start and end -------------------------------------------------------------------------

    async def _begin(self, application: Application) -> None:
        """Start the tree and wait until it is up.

        Raises:
            HandlerCrashed: it could not start, and nothing of it lives.
        """
        application.state = State.STARTING
        application.failures = replace(application.failures, started_s=self._now_s())
        starting = application.starting = self._loop.create_future()
        self._plant(application)
        failed = await starting
        if failed is not None:
            application.state = State.STOPPED
            raise HandlerCrashed(
                f"{application.title} could not start: {failed.message or failed.text}", exit=failed.text
            )

    def _plant(self, application: Application) -> None:
        top = application.top
        top.live = Supervisor(
            self.forest,
            application.scope,
            application.name,
            top.spec,
            lambda report: self._reported(application, report),
        )
        top.live.start()

    def _reported(self, application: Application, report: Report) -> None:
        """The top of a tree is up, or has ended."""
        starting, application.starting = application.starting, None
        match report:
            case core.Started():
                application.state = State.RUNNING
                application.next_start_ms = 0
                if starting is not None:
                    starting.set_result(None)
                else:
                    self._events.emit(
                        ApplicationRestarted(application.scope, application.name, application.restarts)
                    )
                self._activate_eager(application)
                return
            case core.StartFailed(_, exit_):
                application.last_exit = exit_
            case core.Ended(exit_):
                live = application.top.live
                application.last_exit = (live.gave_up if live is not None else None) or exit_
        live, application.top.live = application.top.live, None
        if starting is not None:
            starting.set_result(application.last_exit)
        elif application.state is State.STOPPING:
            application.state = State.STOPPED
        elif self.closing:
            pass
        elif isinstance(report, core.StartFailed) or not report.exit.orderly or (live and live.gave_up):
            self._fail(application)
        else:
            application.state = State.STOPPED
            self._events.emit(
                ApplicationStopped(application.scope, application.name, f"its supervisor ended ({report.exit.text})")
            )
        if application.ending is not None and not application.ending.done():
            application.ending.set_result(None)

    def _fail(self, application: Application) -> None:
        """Start a failed application again, later."""
        delay_s, application.failures = application.failures.again(self._now_s())
        application.state = State.FAILED
        application.next_start_ms = self._clock.now_ns() // 1_000_000 + int(delay_s * 1000)
        reason = application.last_exit.text if application.last_exit is not None else "unknown"
        self._events.emit(ApplicationFailed(application.scope, application.name, reason, delay_s))
        application.timer = self._loop.call_later(delay_s, self._again, application)

    def _again(self, application: Application) -> None:
        application.timer = None
        application.state = State.RESTARTING
        application.restarts += 1
        self._plant(application)

    async def _restart(self, application: Application) -> None:
        application.restarts += 1
        try:
            await self._begin(application)
        except HandlerCrashed:
            self._fail(application)
            raise
        self._events.emit(ApplicationRestarted(application.scope, application.name, application.restarts))

    def _cancel_start(self, application: Application) -> None:
        if application.timer is not None:
            application.timer.cancel()
            application.timer = None
        application.next_start_ms = 0

    async def _stop(self, application: Application, *, kill: bool = False) -> None:
        """End the tree and wait until nothing of it lives."""
        self._cancel_start(application)
        live = application.top.live
        if live is None:
            application.state = State.STOPPED
            return
        application.state = State.STOPPING
        if application.ending is None:
            application.ending = self._loop.create_future()
        ending = application.ending
        if kill:
            live.kill()
        else:
            live.shutdown()
        try:
            await asyncio.shield(ending)
        finally:
            if application.ending is ending and ending.done():
                application.ending = None

    async def close(self, within_s: float) -> None:
        """Stop every application, at the same time; what has not ended after `within_s` seconds is killed."""
        self.closing = True
        everything = [*self._applications.values(), *self._deployments.values()]
        stops = [asyncio.ensure_future(self._stop(application)) for application in everything]
        if not stops:
            return
        await asyncio.wait(stops, timeout=max(within_s, 0.05))
        for application in everything:
            if application.top.live is not None:
                application.top.live.kill()
        await asyncio.gather(*stops)

    # -- actors -------------------------------------------------------------------------------------------

    def activate(self, scope: Scope, text: str) -> Actor | None:
        """A virtual actor begins to live because it was named; None if that is no name of one.

        Raises:
            LimitExceeded: the tenant has as many actors as it may.
        """
        type_ = self._types.get(scope, text.partition("/")[0])
        if type_ is None or not type_.virtual or type_.home.live is None or self.closing:
            return None
        return self._activate(type_, Address.parse(scope, text), None)

    def _activate(self, type_: ActorType, address: Address, mailbox: Any) -> Actor:
        assert type_.home.live is not None
        present = self._registry.find(address.scope, address.text)
        if present is not None:
            return present
        (template,) = type_.home.spec.children
        worker = Worker(address, template.content.detail)
        return type_.home.live.add(
            ChildSpec(address.text, worker, RestartPolicy.TEMPORARY, template.shutdown_s),
            lambda _error: None,
            mailbox=mailbox,
        )

    def _activate_eager(self, application: Application) -> None:
        for type_ in self._types.of_owner(application):
            if type_.virtual and type_.home.live is not None:
                (template,) = type_.home.spec.children
                if self._facets.is_eager(template.content.detail.facets):
                    self._activate(type_, Address(type_.scope, type_.name), None)

    async def spawn(self, address: Address, args: Mapping[str, Any] | None = None) -> None:
        """Start an actor of a deployed type under a key of its own, and wait until it is up.

        Raises:
            NotFound: the type is not deployed.
            AlreadyExists, LimitExceeded
            HandlerCrashed: its `init` failed.
        """
        type_ = self._types.get(address.scope, address.type)
        if type_ is None:
            raise NotFound(f"actor type {address.type!r} is not deployed in namespace {address.scope.namespace!r}")
        home = type_.home.live
        if home is None:
            raise self._absent(type_, address)
        done: asyncio.Future[PlexSpacesError | None] = self._loop.create_future()
        self._add(
            type_, address, home, None if args is None else orjson.dumps(args).decode(),
            lambda error: None if done.done() else done.set_result(error),
        )  # fmt: skip
        error = await done
        if error is not None:
            raise error

    def spawn_from(
        self,
        parent: Actor,
        actor_type: str,
        key: str,
        args: str,
        capabilities: frozenset[str] | None,
        created: Callable[[Actor], None],
        done: Callable[[PlexSpacesError | None], None],
    ) -> Address:
        """Start an actor on behalf of another one, under that one's supervisor; see `host.lifecycle.Spawner`.

        Raises:
            ActorNotFound: there is no such type.
            AlreadyExists, LimitExceeded
        """
        scope = parent.address.scope
        type_ = self._types.get(scope, actor_type) or self._implied(parent, actor_type)
        address = Address.parse(scope, f"{actor_type}/{key or self._ids.next('a')}")
        place = self.forest.places.get(parent.address)
        if place is None:
            raise Unavailable(f"actor {parent.address.text!r} is ending")
        home = type_.home.live if self._is_pool(type_) else None
        self._add(type_, address, home or place.supervisor, args, done, created, capabilities)
        return address

    def _add(
        self,
        type_: ActorType,
        address: Address,
        home: Supervisor,
        args: str | None,
        done: Callable[[PlexSpacesError | None], None],
        created: Callable[[Actor], None] | None = None,
        capabilities: frozenset[str] | None = None,
    ) -> None:
        declared = next((each for each in type_.home.spec.children if each.id == type_.name), None)
        # Nobody has said how it is to be restarted: then, as after Erlang's spawn, it is not.
        spec = ChildSpec(address.text, None, RestartPolicy.TEMPORARY)
        detail = Detail(args=args)
        if declared is not None and isinstance(declared.content, Worker):
            detail = replace(declared.content.detail, args=args)
            if self._is_pool(type_):
                spec = replace(declared, id=address.text)
        home.add(
            replace(spec, content=Worker(address, detail)), done, created=created, capabilities=capabilities
        )  # fmt: skip

    def _is_pool(self, type_: ActorType) -> bool:
        """Its actors are declared as those that come and go under a supervisor of their own."""
        return type_.home.spec.strategy is Strategy.SIMPLE_ONE_FOR_ONE

    def _implied(self, parent: Actor, role: str) -> ActorType:
        """The type of another role of the caller's component, which comes to be by being spawned.

        Raises:
            ActorNotFound
        """
        mine = self._types.get(parent.address.scope, parent.address.type)
        if mine is None or role not in mine.code.component.description["roles"]:
            raise ActorNotFound(
                f"there is no actor type {role!r} in namespace {parent.address.scope.namespace!r}, and "
                f"{parent.address.type!r} has no such role in its component",
                actor_type=role,
            )
        described = mine.code.component.description["roles"][role]
        type_ = replace(
            mine,
            name=role,
            code=replace(mine.code, role=role, args="{}"),
            deployment=replace(
                mine.deployment, actor_type=role, handlers=described["handlers"], version=1, replaced=False
            ),
            virtual=False,
        )
        self._types.put(type_)
        return type_

    async def stop(self, address: Address, *, kill: bool = False) -> None:
        """End an actor and wait until it is gone: for good, or until it is restarted by command.

        One that is gone already is no error.
        """
        place = self.forest.places.get(address)
        if place is not None:
            await self._request(
                place.supervisor, lambda ref: core.TerminateChild(ref, place.child_id, brutal=kill), missing_ok=True
            )

    async def restart(self, address: Address) -> None:
        """End an actor, if it lives, and start it again; one that was stopped, too.

        Raises:
            ActorNotFound
            HandlerCrashed: its `init` failed; it stays down.
        """
        place = self.forest.places.get(address)
        if place is None:
            await self._start_forgotten(address)
            return
        supervisor, child_id = place.supervisor, place.child_id
        worker, capabilities = place.worker, place.capabilities
        await self._request(supervisor, lambda ref: core.TerminateChild(ref, child_id), missing_ok=True)
        if supervisor.core.knows(child_id):
            await self._request(supervisor, lambda ref: core.RestartChild(ref, child_id))
            return
        # A temporary one is forgotten when it ends: it is started as if it were new.
        type_ = self._types.get(address.scope, address.type)
        if type_ is None or type_.virtual:
            return
        done: asyncio.Future[PlexSpacesError | None] = self._loop.create_future()
        supervisor.add(
            ChildSpec(child_id, worker, RestartPolicy.TEMPORARY),
            lambda error: None if done.done() else done.set_result(error),
            capabilities=capabilities,
        )
        error = await done
        if error is not None:
            raise error

    async def _start_forgotten(self, address: Address) -> None:
        """Start a declared actor that its supervisor has forgotten because it is temporary.

        Raises:
            ActorNotFound: there is no such actor.
        """
        type_ = self._types.get(address.scope, address.type)
        home = type_.home.live if type_ is not None else None
        declared = [] if home is None else [each for each in home.core.spec.children if each.id == address.text]
        if home is None or not declared or type_ is None or type_.virtual or self._is_pool(type_):
            raise self.absent(address)
        (spec,) = declared
        done: asyncio.Future[PlexSpacesError | None] = self._loop.create_future()
        home.add(spec, lambda error: None if done.done() else done.set_result(error))
        error = await done
        if error is not None:
            raise error

    def place(self, address: Address) -> Place | None:
        """What is remembered of an actor across its incarnations."""
        return self.forest.places.get(address)

    def absent(self, address: Address) -> PlexSpacesError:
        """Why nobody answers to a name."""
        type_ = self._types.get(address.scope, address.type)
        if type_ is not None and type_.owner.state not in (State.STOPPING, State.STOPPED):
            live = type_.home.live
            if live is None or live.core.state is not core.State.RUNNING:
                # Its supervisor, or one further up, is ending or about to start again.
                return self._absent(type_, address)
        return ActorNotFound(
            f"there is no actor {address.text!r} in namespace {address.scope.namespace!r}", actor=address.text
        )

    def _absent(self, type_: ActorType, address: Address) -> Unavailable:
        owner = type_.owner
        wait_ms = max(100, owner.next_start_ms - self._clock.now_ns() // 1_000_000)
        return Unavailable(
            f"actor {address.text!r} is down: {owner.title} is being started again; try later",
            actor=address.text,
            retry_after_ms=wait_ms,
        )

    async def _request(
        self, supervisor: Supervisor, make: Callable[[int], core.Message], *, missing_ok: bool = False
    ) -> None:
        done: asyncio.Future[PlexSpacesError | None] = self._loop.create_future()
        supervisor.request(make, lambda error: None if done.done() else done.set_result(error))
        error = await done
        if error is not None and not (missing_ok and isinstance(error, NotFound | Unavailable)):
            raise error

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    # -- what is seen -------------------------------------------------------------------------------------

    def _status(self, application: Application) -> ApplicationStatus:
        live = application.top.live
        return ApplicationStatus(
            scope=application.scope,
            name=application.name,
            state=application.state.value,
            version=application.version,
            restarts=application.restarts,
            last_exit=application.last_exit.text if application.last_exit is not None else "",
            next_start_ms=application.next_start_ms,
            actors=sum(1 for _ in _living(live)) if live is not None else 0,
            components=dict(application.components),
            changes=application.changes,
        )

    def tree(self, tenant: str, namespace: str | None = None) -> list[TreeNode]:
        """A tenant's supervision trees, one root for each application and each type deployed on its own."""
        roots = [
            application
            for application in (*self._applications.values(), *self._deployments.values())
            if application.scope.tenant == tenant
            and namespace in (None, application.scope.namespace)
            and application.version
        ]
        return [
            _supervisor_node(
                application.name,
                application.kind,
                application.state.value,
                "",
                application.restarts,
                application.last_exit,
                application.top.live,
                application.top.spec,
            )
            for application in sorted(roots, key=lambda each: (each.scope.namespace, each.kind, each.name))
        ]


def _lone_child(actor_type: str, wanted: DeployConfig) -> ChildConfig:
    """The one child of a type that is deployed on its own."""
    return ChildConfig(
        name=actor_type,
        actor_type=actor_type,
        role=wanted.role,
        args=orjson.loads(wanted.args),
        arguments=wanted.arguments,
        restart=wanted.restart,
        capabilities=wanted.capabilities,
    )


def _next_version(application: Application, before: ActorType | None, code: Code) -> int:
    """Each deployment of a lone type is a version of it, even of the same code."""
    if before is None:
        return 1
    return before.deployment.version + (application.kind == "deployment" or before.code != code)


def _branches(top: Branch) -> Iterator[Branch]:
    """A supervisor and all supervisors below it, from the top down."""
    yield top
    for child in top.spec.children:
        if isinstance(child.content, Branch):
            yield from _branches(child.content)


def _living(supervisor: Supervisor) -> Iterator[Place]:
    yield from (place for place in supervisor.places.values() if place.actor is not None)
    for branch in supervisor.branches.values():
        yield from _living(branch)


def _check_behaviour(child: ChildConfig, described: Mapping[str, Any]) -> None:
    behaviour = described.get("behaviour", "")
    if child.behavior_kind and behaviour and child.behavior_kind != behaviour:
        raise InvalidArgument(
            f"child {child.name!r} is declared as {child.behavior_kind}, but the actor is a {behaviour}: "
            "correct behavior_kind, or the actor's decorator"
        )


def _supervisor_node(
    name: str,
    kind: str,
    state: str,
    restart: str,
    restarts: int,
    last_exit: Exit | None,
    live: Supervisor | None,
    spec: SupervisorSpec,
) -> TreeNode:
    return TreeNode(
        name=name,
        kind=kind,
        state=state,
        address=None,
        strategy=spec.strategy.value,
        restart=restart,
        restarts=restarts,
        restarts_max=spec.restarts_max,
        restarts_in_window=live.core.restarts_in_window if live is not None else 0,
        last_exit=last_exit.text if last_exit is not None else "",
        mailbox_messages=0,
        messages_handled=0,
        children=tuple(_child_node(live, view) for view in live.core.children()) if live is not None else (),
    )


def _child_node(supervisor: Supervisor, view: core.ChildView) -> TreeNode:
    spec = view.spec
    if isinstance(spec.content, Branch):
        branch = supervisor.branches.get(spec.id)
        return _supervisor_node(
            spec.id,
            "supervisor",
            view.state.value,
            spec.restart.value,
            view.restarts,
            None if branch is None else branch.gave_up,
            branch,
            spec.content.spec,
        )
    place = supervisor.places.get(spec.id)
    actor = place.actor if place is not None else None
    return TreeNode(
        name=spec.id,
        kind="actor",
        state=view.state.value if actor is None or not view.running else actor.state.value,
        address=spec.content.address,
        strategy="",
        restart=spec.restart.value,
        restarts=place.restarts if place is not None else 0,
        restarts_max=0,
        restarts_in_window=0,
        last_exit=place.last_exit.text if place is not None and place.last_exit is not None else "",
        mailbox_messages=len(actor.mailbox) if actor is not None else 0,
        messages_handled=actor.handled if actor is not None else 0,
        children=(),
    )

