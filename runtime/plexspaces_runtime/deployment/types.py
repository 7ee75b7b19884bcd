"""Actor types: which code a name stands for, and how its actors go over to new code while they live."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..actors import access, exits
from ..actors.actor import Actor, ActorSpec, Run
from ..actors.capabilities import NOTHING, Grants, intersect, watch
from ..actors.guest import Failure, Guest, Result, Trapped
from ..actors.registry import Registry
from ..config import Limits
from ..egress.veil import Veil
from ..errors import Conflict, InvalidComponent, PlexSpacesError, Unavailable
from ..events import ActorUpgraded, EventBus, UpgradeRefused
from ..isolation.processes import Home, Processes
from ..scheduler import Scheduler
from ..scope import Address, Scope
from ..supervision.supervisor import Branch
from ..wasm.engine import Program, Sandbox
from .model import Deployment, parse_description

if TYPE_CHECKING:
    from .applications import Application


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """A component that is loaded, what it says of itself, and whose process its instances are in, if not the node's."""

    program: Program
    description: Mapping[str, Any]
    process: Home | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the wasm, hexadecimal."""
        return self.program.loaded.hash


@dataclass(frozen=True, slots=True)
class Code:
    """What an incarnation of a type is made from.  Living actors go over from one to another with their state.

    Attributes:
        component_hash: SHA-256.
        role: which of the component's actors.
        args: for `init`, a JSON object.
        facets: for `init`, a JSON object.
        capabilities: what they may ask of the host.
        labels: what the registry finds them by.
        shares_keys: they have one key-value space together.
        process: whose process their instances are in; None for the node's own.
        authorise: who may send them what, as the operator wrote it; see `actors.access`.
    """

    component_hash: str
    role: str
    args: str
    facets: str
    capabilities: Grants
    labels: Mapping[str, str]
    shares_keys: bool
    component: Component = field(compare=False)
    process: Home | None = None
    authorise: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class ActorType:
    """One actor type of a namespace.

    Attributes:
        home: the supervisor under which its actors live.
        virtual: its actors exist by being named.
        implied_by: the type whose actors have spawned it as another role of their component; "" if it is deployed.
        leaving: those of its actors that still live are being ended; it keeps its name until none does.
    """

    scope: Scope
    name: str
    owner: Application
    code: Code
    deployment: Deployment
    home: Branch
    virtual: bool = False
    implied_by: str = ""
    leaving: bool = False


class Types:
    """All actor types of a node.

    Args:
        limits: of every actor that has none of its own.
        veil: told which arguments of messages are secret.
    """

    def __init__(
        self,
        *,
        sandbox: Sandbox,
        processes: Processes,
        scheduler: Scheduler,
        registry: Registry,
        events: EventBus,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        veil: Veil,
    ) -> None:
        self._veil = veil
        self._sandbox = sandbox
        self._processes = processes
        self._scheduler = scheduler
        self._registry = registry
        self._events = events
        self._limits = limits
        self._loop = loop
        self._types: dict[tuple[Scope, str], ActorType] = {}
        # Instances that say what they are, and who waits to hear it.
        self._describing: dict[Actor, asyncio.Future[Result]] = {}
        self._closed = False

    @property
    def interfaces(self) -> frozenset[str]:
        """The interfaces of the contract that have functions, and so can be imported."""
        return frozenset(name for name, each in self._sandbox.package.interfaces.items() if each.functions)

    def get(self, scope: Scope, name: str) -> ActorType | None:
        """The type called `name`."""
        return self._types.get((scope, name))

    def put(self, type_: ActorType) -> None:
        """Make a type known, in place of one of the same name and owner."""
        self._types[type_.scope, type_.name] = type_
        self._veil.declare(type_.scope, type_.name, type_.deployment.handlers)

    def drop(self, scope: Scope, name: str) -> None:
        """Forget a type."""
        self._types.pop((scope, name), None)
        self._veil.forget(scope, name)

    def of_tenant(self, tenant: str, namespace: str | None = None) -> list[ActorType]:
        """A tenant's types, by namespace and name."""
        return [
            type_
            for (scope, _), type_ in sorted(self._types.items(), key=lambda item: (item[0][0].namespace, item[0][1]))
            if scope.tenant == tenant and namespace in (None, scope.namespace)
        ]

    def of_owner(self, owner: Application) -> list[ActorType]:
        """An application's types."""
        return [type_ for type_ in self._types.values() if type_.owner is owner]

    def check_free(self, scope: Scope, name: str, owner: Application | None) -> None:
        """Refuse a name that somebody else's type has.

        Raises:
            Conflict
        """
        type_ = self._types.get((scope, name))
        if type_ is not None and type_.owner is not owner:
            raise Conflict(
                f"actor type {name!r} in namespace {scope.namespace!r} belongs to {type_.owner.title}: "
                "choose another name or namespace, or undeploy that first",
                actor_type=name,
            )

    # -- components ---------------------------------------------------------------------------------------

    async def load(self, wasm: bytes | Path, scope: Scope, process: Home | None) -> Component:
        """Check, compile and describe a component.

        Args:
            process: whose process its instances are to be in; None for the node's own.

        Raises:
            InvalidComponent: not a sealed component of our world, or it does not run.
            LimitExceeded: compiling it took too much.
        """
        program = await self._sandbox.load(wasm)
        return Component(program, parse_description(await self._describe(program, scope, process)), process)

    def _new_guest(self, program: Program, limits: Limits, process: Home | None) -> Guest:
        if process is None:
            return self._sandbox.instance(program, limits)
        return self._processes.guest(process, program, limits)

    def spec(
        self, code: Code, limits: Limits | None, narrowed: Grants | None, args: str | None, *, watched: bool = False
    ) -> ActorSpec:
        """The specification of an incarnation.

        Args:
            narrowed: what it may do at most; None for whatever its type may.
            args: its own; None for those of its type.
            watched: what it uses is kept.
        """
        limits = limits or self._limits
        program = code.component.program
        capabilities = code.capabilities if narrowed is None else intersect(code.capabilities, narrowed)
        return ActorSpec(
            new_guest=lambda: self._new_guest(program, limits, code.process),
            component_hash=code.component_hash,
            limits=limits,
            role=code.role,
            args=code.args if args is None else args,
            facets=code.facets,
            capabilities=watch(capabilities, watched),
            labels=code.labels,
            shares_keys=code.shares_keys,
            process=code.process.title if code.process is not None else "",
            access=access.read(code.component.description["roles"][code.role], code.authorise),
        )

    def close(self) -> None:
        """No component is loaded any more, and none of those being loaded lives."""
        self._closed = True
        for actor, done in tuple(self._describing.items()):
            if not done.done():
                done.set_exception(_closing())
            self._scheduler.kill(actor)

    async def _describe(self, program: Program, scope: Scope, process: Home | None) -> str:
        """Run the component's `describe` in an instance that can reach nothing."""
        if self._closed:
            raise _closing()
        spec = ActorSpec(
            new_guest=lambda: self._new_guest(program, self._limits, process),
            component_hash=program.loaded.hash,
            limits=self._limits,
            capabilities=NOTHING,
        )
        actor = Actor(Address(scope, "describe"), spec, lambda _actor, _exit: None, started_ms=0)
        done: asyncio.Future[Result] = self._loop.create_future()
        self._describing[actor] = done
        self._scheduler.describe(actor, lambda result: None if done.done() else done.set_result(result))
        try:
            result = await done
        finally:
            # Whoever waited may have gone away.
            del self._describing[actor]
            self._scheduler.kill(actor)
        match result:
            case str(text):
                return text
            case Trapped(exit_):
                raise InvalidComponent(f"the component does not run: {exit_.text}", exit=exit_.text)
            case Failure() | None as failed:
                raise InvalidComponent(f"the component's `describe` failed: {failed.message if failed else 'nothing'}")

    # -- new code for living actors -----------------------------------------------------------------------

    async def upgrade(
        self,
        changes: Mapping[str, tuple[Code, Code]],
        scope: Scope,
        spec_of: Callable[[Actor, Code], ActorSpec],
        renew: Callable[[Actor], Awaitable[None]],
    ) -> None:
        """Let all living actors of some types go on with other code, or none of them.

        Args:
            changes: the present and the other code by type.
            spec_of: gives a living actor's specification under a code.
            renew: see `go_back`.

        Returns with every actor of these types at the other code, so that the types can be changed at once.

        Raises:
            Conflict: one could not take over its state; all are at the present code again, and the message says who
                lost his state on the way back.
        """
        # By identity, because a successor takes what waits in the mailbox: it is at the other code too.
        others: dict[int, ActorSpec] = {}
        seen: set[Actor] = set()
        # Until none is left: more may start with the present code meanwhile.
        while stale := self._living(changes, scope, lambda actor: actor not in seen and id(actor.spec) not in others):
            for actor in stale:
                if not actor.alive:
                    continue
                seen.add(actor)
                _, code = changes[actor.address.type]
                spec = spec_of(actor, code)
                others[id(spec)] = spec
                error = await self._go_over(actor, spec)
                if error is not None and actor.alive:
                    self._events.emit(UpgradeRefused(actor.address, code.component_hash, str(error)))
                    before = {name: present for name, (present, _) in changes.items()}
                    tell_more(error, await self.go_back(before, scope, spec_of, renew))
                    raise error
        for actor in self._living(changes, scope, lambda each: id(each.spec) in others):
            self._events.emit(ActorUpgraded(actor.address, actor.spec.component_hash))

    async def go_back(
        self,
        codes: Mapping[str, Code],
        scope: Scope,
        spec_of: Callable[[Actor, Code], ActorSpec],
        renew: Callable[[Actor], Awaitable[None]],
    ) -> list[str]:
        """Let all living actors of some types go back to the code that they were made from, after a change was refused.

        Nobody stays behind: who cannot take his state back is started anew without it.

        Args:
            codes: by type.
            renew: ends an actor and starts it again, from the code of its type.

        Returns:
            What is not as it was before, a phrase each.
        """
        problems: list[str] = []
        seen: set[Actor] = set()

        def is_astray(actor: Actor) -> bool:
            return actor not in seen and not _is_made_from(actor.spec, spec_of(actor, codes[actor.address.type]))

        while astray := self._living(codes, scope, is_astray):
            for actor in astray:
                seen.add(actor)
                if not actor.alive:
                    continue
                code = codes[actor.address.type]
                error = await self._go_over(actor, spec_of(actor, code))
                if error is None or not actor.alive:
                    continue
                self._events.emit(UpgradeRefused(actor.address, code.component_hash, str(error)))
                problems.append(
                    f"actor {actor.address.text!r} was started anew, because it could not take its state back"
                )
                try:
                    await renew(actor)
                except PlexSpacesError as problem:
                    problems.append(problem.message)
        return problems

    def _living(self, types: Iterable[str], scope: Scope, wanted: Callable[[Actor], bool]) -> list[Actor]:
        return [
            actor
            for name in types
            for actor in self._registry.of_type(scope, name)
            # Nobody waits for the end of a run; `hand_over_runs` sees to them.
            if wanted(actor) and not actor.in_run
        ]

    def hand_over_runs(self, types: Iterable[str], scope: Scope) -> None:
        """Let the runs of some types' workflows go on with the code that the types have now: what they did is given
        to it again."""
        for name in types:
            type_ = self.get(scope, name)
            for actor in self._registry.of_type(scope, name):
                if type_ is None or actor.spec.component_hash == type_.code.component_hash:
                    continue
                if actor.in_run:
                    self._scheduler.kill(actor, exits.SHUTDOWN)
                    self._loop.call_soon(self._registry.resolve, scope, actor.address.text)
                else:
                    # Its run has ended meanwhile.
                    self._scheduler.stop(actor, exits.SHUTDOWN)

    async def _go_over(self, actor: Actor, spec: ActorSpec) -> Exception | None:
        if actor.run is Run.NEW:
            actor.spec = spec
            return None
        if not actor.alive:
            return None
        done: asyncio.Future[Exception | None] = self._loop.create_future()
        self._scheduler.upgrade(actor, spec, lambda error: None if done.done() else done.set_result(error))
        return await done


def tell_more(error: Exception, problems: list[str]) -> None:
    """Let an error say what is not as it was before, too."""
    if problems and isinstance(error, PlexSpacesError):
        error.message = f"{error.message}; and not all is as it was before: {'; '.join(problems)}"


def _is_made_from(present: ActorSpec, wanted: ActorSpec) -> bool:
    # Each specification has its own way to make an instance, which cannot be compared.
    return replace(wanted, new_guest=present.new_guest) == present


def _closing() -> Unavailable:
    return Unavailable("the node is stopping")
