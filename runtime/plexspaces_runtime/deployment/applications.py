"""Applications: supervision trees that are deployed, changed, watched and stopped as one.

A type that is deployed on its own is an application too, with one supervisor and one child.  The node is the parent of
every application's top: one that fails is started again with exponential back-off, and the others never notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from ..actors import exits
from ..actors.actor import Actor, ActorSpec
from ..actors.asks import Asks
from ..actors.capabilities import EVERYTHING, NOTHING, Grants, Layer
from ..actors.exits import Exit
from ..actors.facets import Facets
from ..actors.registry import Registry
from ..clock import Clock
from ..config import Limits
from ..egress.links import Link
from ..egress.veil import Veil
from ..errors import (
    ActorNotFound,
    CallerError,
    Conflict,
    HandlerCrashed,
    InvalidArgument,
    NotFound,
    PermissionDenied,
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
    DeploymentRestored,
    Event,
    EventBus,
    EverythingGranted,
    RestoreFailed,
    SpawnedNotRestored,
    Undeployed,
)
from ..facets import workflow
from ..facets.registry import FacetRegistry
from ..facets.virtual_actor import Residents
from ..host.permissions import Permissions
from ..ids import Ids
from ..isolation.processes import Home, Processes
from ..scheduler import Scheduler
from ..scope import Address, Scope, check_name
from ..stores.deployments import APPLICATION, Deployments, Record
from ..supervision import core
from ..supervision.spec import ChildSpec, RestartPolicy, Strategy, SupervisorSpec
from ..supervision.supervisor import Branch, Forest, Place, Report, Supervisor, Worker
from ..supervision.top import Failures
from ..wasm.engine import Sandbox
from . import appconfig
from .appconfig import AppConfig, ChildConfig, FacetConfig, SupervisorConfig
from .grants import GrantReport, news, smallest, toml_line
from .model import DeployConfig, Deployment, choose_role
from .status import ApplicationStatus, TreeNode
from .types import ActorType, Code, Component, Types, tell_more

_VIRTUAL: Final = "virtual_actor"
_WORKFLOW_BEHAVIOUR: Final = "Workflow"
# However late it is: enough for what only has to be told.
_CLOSE_S_MIN: Final = 0.05
T = TypeVar("T")


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
        self.links: Mapping[str, Link] = {}
        self.top = Branch(name, SupervisorSpec())
        self.timer: asyncio.TimerHandle | None = None
        # One deployment, restart or stop at a time.
        self.lock = asyncio.Lock()
        # What is to be laid out and started, of one that was deployed in an earlier life of the node and has not been.
        self.unrestored: Record | None = None
        # Actors that operators had spawned then are to come back with the tree.
        self.respawns = False
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
    """All applications of a node.

    Args:
        set_links: told the ways out that an application has from now on, by scope and name; none of one that is gone.
        veil: told which arguments of messages are secret.
    """

    def __init__(
        self,
        *,
        sandbox: Sandbox,
        processes: Processes,
        scheduler: Scheduler,
        registry: Registry,
        asks: Asks,
        clock: Clock,
        ids: Ids,
        events: EventBus,
        limits: Limits,
        facets: FacetRegistry,
        residents: Residents,
        kept: Deployments,
        permissions: Permissions,
        loop: asyncio.AbstractEventLoop,
        set_links: Callable[[Scope, str, Mapping[str, Link]], None],
        veil: Veil,
    ) -> None:
        self._set_links = set_links
        self._processes = processes
        self._registry = registry
        self._scheduler = scheduler
        self._clock = clock
        self._ids = ids
        self._events = events
        self._limits = limits
        self._facets = facets
        self._residents = residents
        self._kept = kept
        self._permissions = permissions
        self._loop = loop
        self._types = Types(
            sandbox=sandbox,
            processes=processes,
            scheduler=scheduler,
            registry=registry,
            events=events,
            limits=limits,
            loop=loop,
            veil=veil,
        )
        self.forest = Forest(
            scheduler=scheduler, registry=registry, asks=asks, clock=clock, events=events, loop=loop, keepers=self
        )
        self.forest.stays_down = kept.is_stopped
        # By tenant and name.
        self._applications: dict[tuple[str, str], Application] = {}
        # Types deployed on their own.
        self._deployments: dict[tuple[Scope, str], Application] = {}
        # Changes under way.  They are nobody's to cancel: half a change would be left.
        self._work: set[asyncio.Task[Any]] = set()
        self.closing = False
        registry.activate = self.activate

    # -- what the shell of supervision asks ---------------------------------------------------------------

    def spec(self, worker: Worker, capabilities: Grants | None) -> ActorSpec:
        """See `Keepers.spec`."""
        type_ = self._types.get(worker.address.scope, worker.address.type)
        if type_ is None:
            raise NotFound(f"actor type {worker.address.type!r} is not deployed any more")
        detail: Detail = worker.detail
        watched = self._permissions.is_watched(worker.address.scope, worker.address.type)
        return self._types.spec(type_.code, detail.limits, capabilities, detail.args, watched=watched)

    def facets(self, worker: Worker) -> Facets | None:
        """See `Keepers.facets`."""
        detail: Detail = worker.detail
        return self._facets.chain(detail.facets, worker.address)

    def launch(self, place: Place, actor: Actor, on_started: Callable[[Exit | None], None]) -> None:
        """See `Keepers.launch`."""
        self._kept.drop_stopped(actor.address)
        detail: Detail = place.worker.detail
        # Not what its type is: that may be another's by now, while a supervisor has yet to be told of the change.
        if any(facet.type == _VIRTUAL for facet in detail.facets):
            self._residents.launch(actor, on_started)
        else:
            self._scheduler.start(actor, None, on_started)

    def vacated(self, place: Place, exit_: Exit) -> bool:
        """See `Keepers.vacated`: a virtual actor with messages waiting comes to life again for them."""
        address, keeper = place.worker.address, place.facets.keeper if place.facets is not None else None
        type_ = self._types.get(address.scope, address.type)
        if place.began and (type_ is None or type_.owner.state is State.RUNNING):
            # By itself or by command, not because its application is being taken down, or the node.
            self._kept.drop_spawned(address)
        if type_ is None or not type_.virtual or type_.leaving or self.closing:
            return False
        if len(place.mailbox) == 0 and not (keeper is not None and keeper.unfinished):
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

        def refused(code: str, message: str) -> Event:
            return DeploymentRefused(scope, actor_type, code, message)

        with self._telling(refused):
            wanted = self._parse_lone(config)
            self._types.check_free(scope, actor_type, self._deployments.get((scope, actor_type)))
            # Nothing is changed yet: whoever goes away while it is compiled has changed his mind.
            process = self._processes.home(scope, "deployment", actor_type)
            component = await self._types.load(wasm, scope, process)
            pins = await self._kept.keep({component.hash: wasm})
        supervisor = SupervisorConfig(children=(_lone_child(actor_type, wanted),))
        text = orjson.dumps(dict(config)).decode()

        def find() -> Application:
            return self._deployments.setdefault((scope, actor_type), Application(scope, actor_type, "deployment"))

        async def deploy() -> None:
            with self._telling(refused), pins:
                async with self._alone(find) as application:
                    try:
                        await self._deploy(application, supervisor, {actor_type: component})
                        self._keep(application, text)
                    finally:
                        if application.version == 0:
                            del self._deployments[scope, actor_type]

        await self._to_its_end(deploy())
        type_ = self._types.get(scope, actor_type)
        if type_ is None:
            raise Conflict(f"actor type {actor_type!r} was deployed, and has been undeployed since")
        deployment = type_.deployment
        self._events.emit(
            ComponentDeployed(scope, actor_type, deployment.hash, deployment.version, deployment.size_bytes)
        )
        return deployment

    async def try_on(
        self, scope: Scope, actor_type: str, wasm: bytes | Path, config: Mapping[str, Any]
    ) -> ActorSpec:
        """What an actor of a type would be made from with another component; nothing is changed.

        Args:
            config: as for `deploy`; what it does not say is as it is now.

        Raises:
            InvalidComponent, InvalidArgument, LimitExceeded
        """
        check_name("actor type", actor_type)
        wanted = self._parse_lone(config)
        present = self._types.get(scope, actor_type)
        process = self._processes.home(scope, "deployment", actor_type) if present is None else present.code.process
        component = await self._types.load(wasm, scope, process)
        roles = component.description["roles"]
        role = wanted.role or (present.code.role if present is not None and present.code.role in roles else "")
        code = Code(
            component_hash=component.hash,
            role=choose_role(component.description, actor_type, role),
            args=wanted.args if present is None or "args" in config else present.code.args,
            facets=orjson.dumps({"arguments": wanted.arguments}).decode() if present is None else present.code.facets,
            capabilities=NOTHING,
            labels={},
            shares_keys=False,
            component=component,
            process=process,
        )
        return self._types.spec(code, None, None, None)

    async def undeploy(self, scope: Scope, actor_type: str) -> None:
        """Stop a type's actors and forget it.

        Raises:
            NotFound
            Conflict: it belongs to an application.
        """
        def find() -> Application:
            application = self._deployments.get((scope, actor_type))
            if application is None:
                self._types.check_free(scope, actor_type, None)
                raise NotFound(f"actor type {actor_type!r} is not deployed in namespace {scope.namespace!r}")
            return application

        async def undeploy() -> None:
            async with self._alone(find) as application:
                await self._stop(application)
                await self._forget_types(scope, self._drop(application))
                del self._deployments[scope, actor_type]

        await self._to_its_end(undeploy())
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

        def refused(code: str, message: str) -> Event:
            return ApplicationRefused(scope, config.name, code, message)

        def find() -> Application:
            application = self._applications.setdefault(key, Application(scope, config.name, "application"))
            if application.scope != scope:
                raise Conflict(
                    f"application {config.name!r} runs in namespace {application.scope.namespace!r}: undeploy "
                    "it there first, or choose another name"
                )
            return application

        with self._telling(refused):
            if key in self._applications:
                find()
            missing = [each.name for each in config.components if each.name not in components]
            if missing:
                raise InvalidArgument(f"the component {', '.join(map(repr, missing))} was not uploaded")
            # Nothing is changed yet: whoever goes away while they are compiled has changed his mind.
            process = self._process_of(scope, config)
            loaded = {name: await self._types.load(path, scope, process) for name, path in components.items()}
            pins = await self._kept.keep({loaded[name].hash: path for name, path in components.items()})

        async def deploy() -> ApplicationStatus:
            with self._telling(refused), pins:
                async with self._alone(find) as application:
                    try:
                        changes = _link_changes(application.links, config.links)
                        with self._linked(application, config.links):
                            await self._deploy(application, config.supervisor, loaded)
                        application.changes += changes
                        self._keep(application, config.text)
                    finally:
                        if application.version == 0:
                            del self._applications[key]
                    self._events.emit(
                        ApplicationDeployed(scope, config.name, application.version, application.changes)
                    )
                    return self._status(application)

        return await self._to_its_end(deploy())

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
        async def restart() -> ApplicationStatus:
            async with self._alone(partial(self._application, tenant, name)) as application:
                await self._stop(application)
                await self._begin_anew(application)
                return self._status(application)

        return await self._to_its_end(restart())

    async def undeploy_application(self, tenant: str, name: str) -> None:
        """Stop an application and forget it.

        Raises:
            NotFound
        """
        async def undeploy() -> None:
            async with self._alone(partial(self._application, tenant, name)) as application:
                await self._stop(application)
                await self._forget_types(application.scope, self._drop(application))
                self._link(application, {})
                del self._applications[tenant, name]
            self._events.emit(ApplicationStopped(application.scope, name, "undeployed"))

        await self._to_its_end(undeploy())

    def _application(self, tenant: str, name: str) -> Application:
        application = self._applications.get((tenant, name))
        if application is None or not application.version:
            raise NotFound(f"there is no application {name!r}", application=name)
        return application

    # -- one change at a time, each to its end ------------------------------------------------------------

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Make a change that goes on even if whoever asked for it goes away."""
        task = self._work_on(change)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.add_done_callback(self._unheard)
            raise
        return task.result()

    def _work_on(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(change)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    def _unheard(self, task: asyncio.Task[Any]) -> None:
        """Who asked for a change has gone away: why it was refused is nobody's business, a fault of ours still is."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PlexSpacesError):
            self._loop.call_exception_handler({"message": "a change failed", "exception": error, "task": task})

    @asynccontextmanager
    async def _alone(self, find: Callable[[], Application]) -> AsyncIterator[Application]:
        """What `find` finds, with nobody else at work on it.  Whoever was may have removed it: then it is looked for
        again."""
        while True:
            application = find()
            async with application.lock:
                if find() is application:
                    yield application
                    return

    @contextmanager
    def _telling(self, refused: Callable[[str, str], Event]) -> Iterator[None]:
        """Tell the operator of what is refused, by code and message."""
        try:
            yield
        except PlexSpacesError as error:
            self._events.emit(refused(error.code, error.message))
            raise

    # -- what comes back after a restart of the node ------------------------------------------------------

    def _keep(self, application: Application, config: str) -> None:
        """What runs now is what is to run after a restart: to be called in the synchronous section in which it has
        become so."""
        application.unrestored = None
        for type_ in self._types.of_owner(application):
            # What it was refused before says nothing of what it is granted now.
            self._permissions.forget_refusals(type_.scope, type_.name)
        self._warn(application)
        self._kept.put(
            Record(
                application.scope,
                application.kind,
                application.name,
                config,
                dict(application.components),
                application.version,
                {
                    type_.name: type_.deployment.version
                    for type_ in self._types.of_owner(application)
                    if not type_.implied_by
                },
            )
        )

    def _warn(self, application: Application) -> None:
        for type_ in self._types.of_owner(application):
            if not type_.implied_by and type_.code.capabilities.covers(EVERYTHING):
                self._events.emit(EverythingGranted(type_.scope, type_.name))

    def _drop(self, application: Application) -> list[str]:
        """It is not to come back, with whatever was spawned or stopped in it; the types it had."""
        names = [type_.name for type_ in self._types.of_owner(application)]
        kept = application.unrestored.versions if application.unrestored is not None else ()
        self._kept.drop(application.scope, application.kind, application.name, {*names, *kept})
        return names

    async def restore(self, within_s: float) -> None:
        """Bring back what was deployed in an earlier life of the node, in the order in which it was deployed first.

        Returns when each has started or failed, or has been starting for `within_s` seconds; those after it, and the
        node, do not wait longer.  Nothing of it is deleted in any case.
        """
        restored = []
        for record in self._kept.records():
            application = Application(record.scope, record.name, record.kind)
            application.version = record.version
            application.components = dict(record.components)
            application.unrestored = record
            application.state = State.RESTARTING
            application.respawns = True
            if record.kind == APPLICATION:
                self._applications[record.scope.tenant, record.name] = application
            else:
                self._deployments[record.scope, record.name] = application
            restored.append(application)
        for application in restored:
            try:
                components = await self._found(application)
            except PlexSpacesError as error:
                self._not_restored(application, error)
                continue
            # Only from here on, so that whoever asks for one of its actors hears that it is starting.
            started = self._work_on(self._restore_alone(application, components))
            started.add_done_callback(self._unheard)
            await asyncio.wait((started,), timeout=within_s)

    async def _found(self, application: Application) -> dict[str, Component]:
        """The components of an application that is to be restored."""
        assert application.unrestored is not None
        scope, record = application.scope, application.unrestored
        if record.kind == APPLICATION:
            process = self._process_of(scope, self._parse_application(record.config))
        else:
            process = self._processes.home(scope, record.kind, record.name)
        return {
            name: await self._types.load(await self._kept.component(hash_), scope, process)
            for name, hash_ in record.components.items()
        }

    def _process_of(self, scope: Scope, config: AppConfig) -> Home | None:
        return self._processes.home(
            scope, APPLICATION, config.name, config.isolation, config.process_memory_bytes_max
        )

    def _parse_application(self, text: str) -> AppConfig:
        return appconfig.parse(text, limits=self._limits, facet_types=self._facets.parsers)

    async def _restore_alone(self, application: Application, components: Mapping[str, Component] | None = None) -> None:
        async with application.lock:
            # Whoever was at work on it may have deployed, stopped or restarted it.
            if application.state is State.RESTARTING and application.unrestored is not None:
                await self._restore(application, components)

    async def _restore(
        self, application: Application, components: Mapping[str, Component] | None = None
    ) -> PlexSpacesError | None:
        """Lay out and start what the record says; the error is why it does not run, which has been said."""
        record = application.unrestored
        if record is None or self.closing:
            return None
        try:
            if components is None:
                components = await self._found(application)
            supervisor, links = self._parse(record)
            draft = self._draft(application, supervisor, components)
            self._link(application, links)
        except PlexSpacesError as error:
            self._not_restored(application, error)
            return error
        for name, type_ in draft.types.items():
            version = record.versions.get(name, 1)
            type_.deployment = replace(type_.deployment, version=version, replaced=version > 1)
        self._adopt(draft, {})
        application.top = draft.specs[0][0]
        application.unrestored = None
        try:
            await self._begin(application)
        except HandlerCrashed as error:
            self._fail(application)
            return error
        except Unavailable as error:
            # The node is stopping.
            return error
        self._events.emit(
            DeploymentRestored(application.scope, application.kind, application.name, application.version)
        )
        self._warn(application)
        await self._respawn(application)
        return None

    def _parse_lone(self, config: Mapping[str, Any]) -> DeployConfig:
        return DeployConfig.parse(config, facet_types=self._facets.parsers, limits=self._limits)

    def _parse(self, record: Record) -> tuple[SupervisorConfig, Mapping[str, Link]]:
        if record.kind == APPLICATION:
            config = self._parse_application(record.config)
            return config.supervisor, config.links
        wanted = self._parse_lone(orjson.loads(record.config))
        return SupervisorConfig(children=(_lone_child(record.name, wanted),)), {}

    def _not_restored(self, application: Application, error: PlexSpacesError) -> None:
        application.last_exit = exits.crashed(error.code, error.message)
        application.state = State.FAILED
        delay_s = 0.0
        if not isinstance(error, CallerError) and not self.closing:
            delay_s, application.failures = application.failures.again(self._now_s())
            application.next_start_ms = self._clock.now_ns() // 1_000_000 + int(delay_s * 1000)
            application.timer = self._loop.call_later(delay_s, self._again, application)
        self._events.emit(
            RestoreFailed(
                application.scope, application.kind, application.name, error.code, error.message, delay_s
            )
        )

    def _why_not(self, application: Application) -> Unavailable:
        reason = application.last_exit.message if application.last_exit is not None else ""
        return Unavailable(f"{application.title} could not be restored: {reason}")

    async def _respawn(self, application: Application) -> None:
        """Start the actors again that operators had spawned, once."""
        if not application.respawns:
            return
        application.respawns = False
        types = [type_.name for type_ in self._types.of_owner(application)]
        for address, args in self._kept.spawned(application.scope, types):
            type_ = self._types.get(address.scope, address.type)
            if type_ is None or type_.home.live is None or self.forest.places.get(address) is not None:
                continue
            try:
                await self._answered(partial(self._add, type_, address, type_.home.live, args))
            except PlexSpacesError as error:
                self._events.emit(SpawnedNotRestored(address, error.code, error.message))

    async def _begin_anew(self, application: Application) -> None:
        """Start a tree that is down by command: with everything that was stopped in it, without what was spawned."""
        if application.unrestored is not None:
            if (error := await self._restore(application)) is not None:
                raise error
            return
        self._kept.forget_actors(application.scope, [type_.name for type_ in self._types.of_owner(application)])
        await self._restart(application)

    # -- deploying ----------------------------------------------------------------------------------------

    async def _deploy(
        self, application: Application, wanted: SupervisorConfig, components: Mapping[str, Component]
    ) -> None:
        self._refuse_if_closing()
        down = application.state in (State.FAILED, State.RESTARTING)
        if application.state is State.RESTARTING:
            # Nothing of it is up: another version need not wait for what this one takes so long to start.
            await self._stop(application)
        draft = self._draft(application, wanted, components)
        if application.top.live is None:
            await self._first(application, draft, down=down)
        else:
            try:
                await self._change(application, draft)
            except Unavailable:
                if application.top.live is not None or self.closing:
                    raise
                # It fell while it was being changed.
                await self._first(application, self._draft(application, wanted, components), down=True)
        application.version += 1
        application.components = {name: component.hash for name, component in components.items()}

    async def _first(self, application: Application, draft: _Draft, *, down: bool) -> None:
        """Start a tree where none is.

        Args:
            down: the application has failed, and is to be started again if it cannot be deployed.
        """
        old = {type_.name: type_ for type_ in self._types.of_owner(application)}
        before = application.top
        self._cancel_start(application)
        self._adopt(draft, old)
        application.top = draft.specs[0][0]
        self._kept.forget_stopped(application.scope, draft.types)
        try:
            await self._begin(application)
        except HandlerCrashed:
            application.top = before
            await self._forget_types(application.scope, [name for name in draft.types if name not in old])
            for type_ in old.values():
                self._types.put(type_)
            if down:
                self._fail(application)
            raise
        await self._forget_types(application.scope, [name for name in old if name not in draft.types])
        await self._respawn(application)
        application.changes = tuple(f"started {name}" for name in draft.types)

    async def _change(self, application: Application, draft: _Draft) -> None:
        """Let a living tree become another."""
        scope = application.scope
        old = {type_.name: type_ for type_ in self._types.of_owner(application)}
        self._keep_implied(old.values(), draft)
        old_specs = [(branch, branch.spec) for branch in _branches(application.top)]
        old_details = self._details(application.top)
        changed = {
            name: (old[name].code, type_.code)
            for name, type_ in draft.types.items()
            if name in old and old[name].code != type_.code
        }
        new = [name for name in draft.types if name not in old]
        # Before anything is waited for, so that nobody else takes the names.
        for name in new:
            self._types.put(draft.types[name])
        try:
            await self._types.upgrade(changed, scope, self._spec_under, self._renew)
        except PlexSpacesError:
            await self._forget_types(scope, new)
            raise
        self._adopt(draft, {})
        try:
            await self._replace(draft.specs)
            await self._start_stopped(application, draft)
        except PlexSpacesError as error:
            await self._go_back(old_specs, old, changed, new, scope, error)
            raise
        self._types.hand_over_runs(changed, scope)
        gone = [name for name in old if name not in draft.types]
        await self._forget_types(scope, gone)
        again = [
            name for name in draft.types if name in old_details and draft.details.get(name) != old_details.get(name)
        ]
        application.changes = (
            *(f"stopped {name}" for name in gone),
            *(f"started {name}" for name in draft.types if name not in old),
            *(f"upgraded {name}" for name in changed),
            *(f"restarted {name}" for name in again if name not in changed),
        )

    async def _go_back(
        self,
        specs: list[tuple[Branch, SupervisorSpec]],
        types: Mapping[str, ActorType],
        changed: Mapping[str, tuple[Code, Code]],
        new: list[str],
        scope: Scope,
        error: PlexSpacesError,
    ) -> None:
        """Undo a change as far as that can be done; `error` says how far, besides why."""
        for type_ in types.values():
            self._types.put(type_)
        problems = []
        try:
            await self._replace(specs)
        except PlexSpacesError as problem:
            problems.append(problem.message)
        await self._forget_types(scope, new)
        before = {name: code for name, (code, _) in changed.items()}
        problems.extend(await self._types.go_back(before, scope, self._spec_under, self._renew))
        tell_more(error, problems)

    async def _renew(self, actor: Actor) -> None:
        await self.restart(actor.address)

    async def _forget_types(self, scope: Scope, names: list[str]) -> None:
        """End what still lives of types that are gone, because others have spawned it, and forget the types."""
        for name in names:
            if (type_ := self._types.get(scope, name)) is not None:
                type_.leaving = True
        for name in names:
            for actor in self._registry.of_type(scope, name):
                await self.stop(actor.address)
            self._types.drop(scope, name)
            self._residents.forget(scope, name)
            self._permissions.forget_refusals(scope, name)

    def _adopt(self, draft: _Draft, old: Mapping[str, ActorType]) -> None:
        for name in old.keys() - draft.types.keys():
            self._types.drop(old[name].scope, name)
        for branch, spec in draft.specs:
            branch.spec = spec
        for type_ in draft.types.values():
            self._types.put(type_)

    async def _replace(self, specs: list[tuple[Branch, SupervisorSpec]]) -> None:
        """Hand each supervisor its specification, from the top down; those that start meanwhile have it already.

        All are handed it, even if one could not do as it was told: the first such error is raised in the end.
        """
        for branch, spec in specs:
            branch.spec = spec
        errors: list[PlexSpacesError] = []
        # First whoever goes, everywhere: a child that moves from one supervisor to another has but one name.
        for make in (_without_the_gone, lambda _now, wanted: wanted):
            for branch, wanted in specs:
                if branch.live is None or (spec := make(branch.live.core.spec, wanted)) == branch.live.core.spec:
                    continue
                try:
                    await self._answered(partial(branch.live.replace, spec))
                except PlexSpacesError as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    async def _start_stopped(self, application: Application, draft: _Draft) -> None:
        """A deployment brings up what an operator had stopped."""
        for type_ in draft.types.values():
            address = Address(application.scope, type_.name)
            if not type_.virtual and self._registry.find(address.scope, address.text) is None:
                live = type_.home.live
                if live is not None and live.core.knows(type_.name):
                    await self._request(live, partial(core.RestartChild, child_id=type_.name))

    def _spec_under(self, actor: Actor, code: Code) -> ActorSpec:
        """What a living actor would be under another code."""
        place = self.forest.places[actor.address]
        detail: Detail = place.worker.detail
        watched = self._permissions.is_watched(actor.address.scope, actor.address.type)
        return self._types.spec(code, detail.limits, place.capabilities, detail.args, watched=watched)

    # -- ways out -----------------------------------------------------------------------------------------

    @contextmanager
    def _linked(self, application: Application, links: Mapping[str, Link]) -> Iterator[None]:
        """Let an application have these ways out while it is changed to what needs them, and after; those it had if it
        is not changed.

        Raises:
            AlreadyExists: another application of the namespace has one of that name.
        """
        before = application.links
        self._link(application, links)
        try:
            yield
        except BaseException:
            self._link(application, before)
            raise

    def _link(self, application: Application, links: Mapping[str, Link]) -> None:
        if links != application.links:
            self._set_links(application.scope, application.name, links)
            application.links = links

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
                pool = child.supervisor.strategy is Strategy.SIMPLE_ONE_FOR_ONE
                content = self._branch_of(present.get(child.name), child.name, pool=pool)
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

    def _branch_of(self, present: Any, name: str, *, pool: bool) -> Branch:
        """The branch of a supervisor that stays; another, which is started in its place, where it cannot go on."""
        if (
            isinstance(present, Branch)
            and present.live is not None
            and (present.spec.strategy is Strategy.SIMPLE_ONE_FOR_ONE) is pool
        ):
            return present
        return Branch(name, SupervisorSpec())

    def _nursery(self, worker: Worker, child: ChildConfig, present: Mapping[str, Any], draft: _Draft) -> Branch:
        """The supervisor of a virtual type's actors, which come and go, and are nobody's business when they crash:
        the next message brings them back."""
        branch = self._branch_of(present.get(child.name), child.name, pool=True)
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
        role = choose_role(component.description, child.name, child.role)
        described = component.description["roles"][role]
        # What the author declares holds where the configuration says nothing else.
        named = {facet.type for facet in child.facets}
        declared = tuple(FacetConfig(name, None, {}) for name in described.get("facets", ()) if name not in named)
        child = replace(child, facets=(*child.facets, *declared))
        if described.get("behaviour") == _WORKFLOW_BEHAVIOUR:
            child = replace(child, facets=_with_workflow(child.facets, described))
        facets = self._facets.parse_all(child.facets)
        _check_behaviour(child, described)
        layer = Layer.of(_origin(application, child), child.capabilities)
        loaded = component.program.loaded
        code = Code(
            component_hash=component.hash,
            role=role,
            args=orjson.dumps(child.args).decode(),
            facets=orjson.dumps(
                {"arguments": child.arguments, **{facet.type: dict(facet.config) for facet in child.facets}}
            ).decode(),
            capabilities=Grants(frozenset({layer})),
            labels=dict(child.labels),
            shares_keys=child.shared_keys,
            component=component,
            process=component.process,
            authorise=child.authorise,
        )
        before = self._types.get(scope, child.name)
        version = _next_version(application, child.name, before, code)
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
                version=version,
                replaced=before is not None or version > 1,
                capabilities=news(_asked_before(before), loaded.audit.imports, layer, self._types.interfaces),
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
        self._refuse_if_closing()
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

    def _refuse_if_closing(self) -> None:
        if self.closing:
            raise Unavailable("the node is stopping")

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
                if application.state is State.STOPPING:
                    # Told to stop while it started: it is about to.
                    if starting is not None:
                        starting.set_result(None)
                    return
                application.state = State.RUNNING
                application.next_start_ms = 0
                if starting is not None:
                    starting.set_result(None)
                else:
                    self._events.emit(
                        ApplicationRestarted(application.scope, application.name, application.restarts)
                    )
                self._activate_eager(application)
                if application.respawns and application.unrestored is None and starting is None:
                    self._work_on(self._respawn(application)).add_done_callback(self._unheard)
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
        elif isinstance(report, core.StartFailed) or not report.exit.orderly or (live and live.gave_up):
            self._fail(application)
        else:
            application.state = State.STOPPED
            self._events.emit(
                ApplicationStopped(application.scope, application.name, f"its supervisor ended ({report.exit.text})")
            )
        ending, application.ending = application.ending, None
        if ending is not None:
            ending.set_result(None)

    def _fail(self, application: Application) -> None:
        """Start a failed application again, later."""
        if self.closing:
            application.state = State.STOPPED
            return
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
        if application.unrestored is not None:
            self._work_on(self._restore_alone(application)).add_done_callback(self._unheard)
            return
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

    async def _stop(self, application: Application) -> None:
        """End the tree and wait until nothing of it lives."""
        self._cancel_start(application)
        live = application.top.live
        if live is None:
            application.state = State.STOPPED
            return
        # What has yet to come up has nothing to finish, and may take long to do so.
        end = live.kill if application.state is State.RESTARTING else live.shutdown
        application.state = State.STOPPING
        if application.ending is None:
            application.ending = self._loop.create_future()
        ending = application.ending
        end()
        # The node's end may wait for the same.
        await asyncio.shield(ending)

    async def close(self, within_s: float) -> None:
        """Stop every application, at the same time; what has not ended after `within_s` seconds is killed."""
        self.closing = True
        self._types.close()
        deadline_s = self._loop.time() + max(within_s, _CLOSE_S_MIN)
        everything = [*self._applications.values(), *self._deployments.values()]
        stops = {asyncio.ensure_future(self._stop(application)) for application in everything}
        if stops:
            await asyncio.wait(stops, timeout=deadline_s - self._loop.time())
        for application in everything:
            if application.top.live is not None:
                application.top.live.kill()
        await asyncio.gather(*stops)
        # Nothing lives, and nothing begins: what changes are still under way come to their end by themselves.
        if self._work:
            await asyncio.wait(self._work, timeout=max(_CLOSE_S_MIN, deadline_s - self._loop.time()))

    # -- actors -------------------------------------------------------------------------------------------

    def activate(self, scope: Scope, text: str) -> Actor | None:
        """A virtual actor begins to live because it was named; None if that is no name of one.

        Raises:
            LimitExceeded: the tenant has as many actors as it may.
        """
        type_ = self._types.get(scope, text.partition("/")[0])
        if type_ is None or not type_.virtual or type_.leaving or type_.home.live is None or self.closing:
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
        """Start an actor of a deployed type under a key of its own, and wait until it is up.  It comes back after a
        restart of the node, unless it has ended for good before.

        Raises:
            NotFound: the type is not deployed.
            AlreadyExists, LimitExceeded
            HandlerCrashed: its `init` failed.
        """
        type_ = self._types.get(address.scope, address.type)
        if type_ is None or type_.leaving:
            raise NotFound(f"actor type {address.type!r} is not deployed in namespace {address.scope.namespace!r}")
        home = type_.home.live
        if home is None:
            raise self._absent(type_, address)
        text = None if args is None else orjson.dumps(args).decode()

        async def spawn() -> None:
            await self._answered(partial(self._add, type_, address, home, text))
            if self._registry.find(address.scope, address.text) is not None and not type_.virtual:
                self._kept.put_spawned(address, text)

        await self._to_its_end(spawn())

    def spawn_from(
        self,
        parent: Actor,
        actor_type: str,
        key: str,
        args: str,
        capabilities: Grants,
        created: Callable[[Actor], None],
        done: Callable[[PlexSpacesError | None], None],
    ) -> Address:
        """Start an actor on behalf of another one, under that one's supervisor; see `host.lifecycle.Spawner`.

        Raises:
            ActorNotFound: there is no such type.
            AlreadyExists, LimitExceeded, PermissionDenied
        """
        scope = parent.address.scope
        type_ = self._types.get(scope, actor_type) or self._implied(parent, actor_type)
        if type_.leaving:
            raise ActorNotFound(f"actor type {actor_type!r} is being undeployed", actor_type=actor_type)
        if type_.virtual and not capabilities.covers(type_.code.capabilities):
            # It comes back by being named, whoever spawned it and whoever names it, and nothing would narrow it then.
            raise PermissionDenied(
                f"{parent.address.text!r} may not spawn actors of the virtual type {actor_type!r}, which may do more "
                f"than it may itself: name one in a message instead, or grant {parent.address.type!r} as much",
                actor_type=actor_type,
            )
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
        capabilities: Grants | None = None,
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
        type_ = self._type_of_role(mine, role, None)
        self._types.put(type_)
        return type_

    def _type_of_role(self, mine: ActorType, role: str, before: ActorType | None) -> ActorType:
        code = replace(mine.code, role=role, args="{}")
        return replace(
            mine,
            name=role,
            code=code,
            deployment=replace(
                mine.deployment,
                actor_type=role,
                handlers=code.component.description["roles"][role]["handlers"],
                version=_next_version(mine.owner, role, before, code),
                replaced=before is not None,
            ),
            virtual=False,
            implied_by=mine.implied_by or mine.name,
        )

    def _keep_implied(self, types: Iterable[ActorType], draft: _Draft) -> None:
        """Types that came to be by being spawned stay for as long as the type that implied them has such a role."""
        for type_ in types:
            mine = draft.types.get(type_.implied_by)
            if (
                mine is not None
                and type_.name not in draft.types
                and type_.name in mine.code.component.description["roles"]
            ):
                draft.types[type_.name] = self._type_of_role(mine, type_.name, type_)

    async def stop(self, address: Address, *, kill: bool = False) -> None:
        """End an actor and wait until it is gone: for good, or until it is restarted by command.

        One that is gone already is no error.
        """
        place = self.forest.places.get(address)
        if place is not None:
            await self._request(
                place.supervisor, lambda ref: core.TerminateChild(ref, place.child_id, brutal=kill), missing_ok=True
            )

    async def stop_for_good(self, address: Address, *, kill: bool = False) -> None:
        """End an actor by an operator's command: it stays down, also after a restart of the node, until it is restarted
        by command or deployed."""

        async def stop() -> None:
            await self.stop(address, kill=kill)
            # Somebody may have started it again meanwhile.
            if self._is_declared(address) and self._registry.find(address.scope, address.text) is None:
                self._kept.put_stopped(address)

        await self._to_its_end(stop())

    def _is_declared(self, address: Address) -> bool:
        """Whether it is an actor that starts with its supervisor."""
        type_ = self._types.get(address.scope, address.type)
        return (
            type_ is not None
            and not type_.virtual
            and not self._is_pool(type_)
            and any(each.id == address.text for each in type_.home.spec.children)
        )

    async def restart(self, address: Address) -> None:
        """End an actor, if it lives, and start it again; one that was stopped, too.

        Raises:
            ActorNotFound
            HandlerCrashed: its `init` failed; it stays down.
        """
        place = self.forest.places.get(address)
        if place is None:
            lone = self._deployments.get((address.scope, address.type))
            if lone is not None and lone.unrestored is not None:
                await self._to_its_end(self._restart_lone(lone))
            else:
                await self._start_forgotten(address)
            return
        supervisor, child_id, capabilities = place.supervisor, place.child_id, place.capabilities
        spec = supervisor.core.child(child_id)
        await self._request(supervisor, lambda ref: core.TerminateChild(ref, child_id), missing_ok=True)
        if supervisor.core.knows(child_id):
            await self._request(supervisor, lambda ref: core.RestartChild(ref, child_id))
            return
        # A temporary one is forgotten when it ends: it is started as if it were new.
        type_ = self._types.get(address.scope, address.type)
        if spec is None or type_ is None or type_.virtual or type_.leaving:
            return
        await self._answered(partial(supervisor.add, spec, capabilities=capabilities))

    async def _restart_lone(self, application: Application) -> None:
        """Try again to bring back a type that was deployed on its own."""
        async with application.lock:
            if application.unrestored is not None and application.state is State.FAILED:
                self._cancel_start(application)
                if (error := await self._restore(application)) is not None:
                    raise error

    async def bring_up(self, address: Address) -> None:
        """Let an actor live that is down, and first its application, where that has failed and waits.

        Raises:
            ActorNotFound
            HandlerCrashed: its `init` failed, or that of another of its application.
        """
        type_ = self._types.get(address.scope, address.type)
        if type_ is not None and type_.owner.state is State.FAILED:
            await self._to_its_end(self._restart_failed(type_.owner))
        # A virtual actor lives by being named.
        if self._registry.resolve(address.scope, address.text) is None:
            await self.restart(address)

    async def _restart_failed(self, application: Application) -> None:
        async with application.lock:
            if application.state is not State.FAILED:
                return
            self._cancel_start(application)
            if application.unrestored is None:
                await self._restart(application)
            elif (error := await self._restore(application)) is not None:
                raise error

    async def _start_forgotten(self, address: Address) -> None:
        """Start a declared actor that nobody remembers: its supervisor has forgotten it, because it is temporary.

        Raises:
            ActorNotFound: there is no such actor.
        """
        type_ = self._types.get(address.scope, address.type)
        home = type_.home.live if type_ is not None else None
        declared = [] if home is None else [each for each in home.core.spec.children if each.id == address.text]
        if home is None or not declared or type_ is None or type_.virtual or self._is_pool(type_):
            raise self.absent(address)
        (spec,) = declared
        if home.core.knows(spec.id):
            # It never came up: somebody else had its name then, or it was to stay down.
            await self._request(home, partial(core.RestartChild, child_id=spec.id))
        else:
            await self._answered(partial(home.add, spec))

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
        for application in (*self._applications.values(), *self._deployments.values()):
            record = application.unrestored
            if record is not None and record.scope == address.scope and address.type in record.versions:
                return self._why_not(application)
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
        try:
            await self._answered(partial(supervisor.request, make))
        except (NotFound, Unavailable):
            if not missing_ok:
                raise

    async def _answered(self, ask: Callable[[Callable[[PlexSpacesError | None], None]], object]) -> None:
        """Wait for the answer to what `ask` asks; an error is raised."""
        done: asyncio.Future[PlexSpacesError | None] = self._loop.create_future()
        ask(lambda error: None if done.done() else done.set_result(error))
        error = await done
        if error is not None:
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
            capabilities={
                type_.name: type_.deployment.capabilities
                for type_ in self._types.of_owner(application)
                if not type_.implied_by
            },
        )

    def grants(self, scope: Scope, actor_type: str) -> GrantReport:
        """What a type may do, was refused and was seen to do.

        Raises:
            NotFound: it is neither deployed nor observed.
        """
        type_, uses = self._types.get(scope, actor_type), self._permissions.uses(scope, actor_type)
        if type_ is None and uses is None:
            raise NotFound(
                f"actor type {actor_type!r} is not deployed in namespace {scope.namespace!r}", actor_type=actor_type
            )
        needed = smallest(uses.calls, uses.names, uses.more) if uses is not None else ()
        return GrantReport(
            actor_type=actor_type,
            granted=type_.deployment.capabilities.granted if type_ is not None else (),
            refused=self._permissions.refusals(scope, actor_type),
            observed=uses is not None,
            calls=dict(uses.calls) if uses is not None else {},
            smallest=needed,
            line=toml_line(needed) if uses is not None else "",
            not_all_names=tuple(sorted(uses.more)) if uses is not None else (),
        )

    def namespaces(self, tenant: str) -> list[str]:
        """Where a tenant has something deployed."""
        everything = (*self._applications.values(), *self._deployments.values())
        return sorted(
            {each.scope.namespace for each in everything if each.scope.tenant == tenant and each.version}
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


def _link_changes(before: Mapping[str, Link], after: Mapping[str, Link]) -> tuple[str, ...]:
    return (
        *(f"removed link {name}" for name in before if name not in after),
        *(f"added link {name}" for name in after if name not in before),
        *(f"changed link {name}" for name in after if name in before and before[name] != after[name]),
    )


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
        facets=wanted.facets,
        labels=wanted.labels,
        shared_keys=wanted.shared_keys,
        limits=wanted.limits,
        authorise=wanted.authorise,
    )


def _origin(application: Application, child: ChildConfig) -> str:
    """Whose configuration it is, to end a sentence with."""
    if application.kind == APPLICATION:
        return f"of child {child.name!r} in application {application.name!r}"
    return f"of the deployed type {child.name!r}"


def _asked_before(before: ActorType | None) -> tuple[tuple[str, ...], Layer] | None:
    """What a type imported and was granted."""
    if before is None:
        return None
    (layer,) = before.code.capabilities.layers
    return before.deployment.imports, layer


def _next_version(application: Application, name: str, before: ActorType | None, code: Code) -> int:
    """Each deployment of a lone type is a version of it, even of the same code."""
    if before is None:
        kept = application.unrestored.versions if application.unrestored is not None else {}
        return kept.get(name, 0) + 1
    return before.deployment.version + (application.kind == "deployment" or before.code != code)


def _without_the_gone(now: SupervisorSpec, wanted: SupervisorSpec) -> SupervisorSpec:
    """What a supervisor is told now, less the children that it is not to have."""
    if Strategy.SIMPLE_ONE_FOR_ONE in (now.strategy, wanted.strategy):
        return now
    stays = {child.id for child in wanted.children}
    return replace(now, children=tuple(child for child in now.children if child.id in stays))


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


def _with_workflow(facets: tuple[FacetConfig, ...], described: Mapping[str, Any]) -> tuple[FacetConfig, ...]:
    """The facets of a workflow: it exists by being named, survives the node, and knows its runs, signals and queries
    from other messages."""
    given = tuple(facet for facet in facets if facet.type != workflow.NAME)
    named = {facet.type for facet in given}
    implied = tuple(FacetConfig(name) for name in (_VIRTUAL, "durability") if name not in named)
    return (*given, *implied, FacetConfig(workflow.NAME, None, workflow.describe_kinds(described)))


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

