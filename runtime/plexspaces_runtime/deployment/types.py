"""Actor types: which code a name stands for, and how its actors go over to new code while they live."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..actors.actor import Actor, ActorSpec, Run
from ..actors.guest import Failure, Result, Trapped
from ..actors.registry import Registry
from ..config import Limits
from ..errors import Conflict, InvalidComponent
from ..events import ActorUpgraded, EventBus, UpgradeRefused
from ..scheduler import Scheduler
from ..scope import Address, Scope
from ..supervision.supervisor import Branch
from ..wasm.engine import Program, Sandbox
from .model import Deployment, parse_description

if TYPE_CHECKING:
    from .applications import Application


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """A component that is loaded, and what it says of itself."""

    program: Program
    description: Mapping[str, Any]

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
        capabilities: WIT interfaces its actors may call; None for all.
        labels: what the registry finds them by.
    """

    component_hash: str
    role: str
    args: str
    facets: str
    capabilities: frozenset[str] | None
    labels: Mapping[str, str]
    component: Component = field(compare=False)


@dataclass(slots=True, eq=False)
class ActorType:
    """One actor type of a namespace.

    Attributes:
        home: the supervisor under which its actors live.
        virtual: its actors exist by being named.
    """

    scope: Scope
    name: str
    owner: Application
    code: Code
    deployment: Deployment
    home: Branch
    virtual: bool = False


class Types:
    """All actor types of a node.

    Args:
        limits: of every actor that has none of its own.
    """

    def __init__(
        self,
        *,
        sandbox: Sandbox,
        scheduler: Scheduler,
        registry: Registry,
        events: EventBus,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._sandbox = sandbox
        self._scheduler = scheduler
        self._registry = registry
        self._events = events
        self._limits = limits
        self._loop = loop
        self._types: dict[tuple[Scope, str], ActorType] = {}

    @property
    def interfaces(self) -> frozenset[str]:
        """The WIT interfaces there are."""
        return frozenset(self._sandbox.package.interfaces)

    def get(self, scope: Scope, name: str) -> ActorType | None:
        """The type called `name`."""
        return self._types.get((scope, name))

    def put(self, type_: ActorType) -> None:
        """Make a type known, in place of one of the same name and owner."""
        self._types[type_.scope, type_.name] = type_

    def drop(self, scope: Scope, name: str) -> None:
        """Forget a type."""
        self._types.pop((scope, name), None)

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

    async def load(self, wasm: bytes | Path, scope: Scope) -> Component:
        """Check, compile and describe a component.

        Raises:
            InvalidComponent: not a sealed component of our world, or it does not run.
            LimitExceeded: compiling it took too much.
        """
        program = await self._sandbox.load(wasm)
        return Component(program, parse_description(await self._describe(program, scope)))

    def spec(self, code: Code, limits: Limits | None, narrowed: frozenset[str] | None, args: str | None) -> ActorSpec:
        """The specification of an incarnation.

        Args:
            narrowed: it may call at most these interfaces; None for whatever its type may.
            args: its own; None for those of its type.
        """
        limits = limits or self._limits
        program = code.component.program
        capabilities = code.capabilities
        if narrowed is not None:
            capabilities = narrowed if capabilities is None else capabilities & narrowed
        return ActorSpec(
            new_guest=lambda: self._sandbox.instance(program, limits),
            component_hash=code.component_hash,
            limits=limits,
            role=code.role,
            args=code.args if args is None else args,
            facets=code.facets,
            capabilities=capabilities,
            labels=code.labels,
        )

    async def _describe(self, program: Program, scope: Scope) -> str:
        """Run the component's `describe` in an instance that can reach nothing."""
        spec = ActorSpec(
            new_guest=lambda: self._sandbox.instance(program, self._limits),
            component_hash=program.loaded.hash,
            limits=self._limits,
            capabilities=frozenset(),
        )
        actor = Actor(Address(scope, "describe"), spec, lambda _actor, _exit: None, started_ms=0)
        done: asyncio.Future[Result] = self._loop.create_future()
        self._scheduler.describe(actor, lambda result: None if done.done() else done.set_result(result))
        match await done:
            case str(text):
                return text
            case Trapped(exit_):
                raise InvalidComponent(f"the component does not run: {exit_.text}", exit=exit_.text)
            case Failure() | None as failed:
                raise InvalidComponent(f"the component's `describe` failed: {failed.message if failed else 'nothing'}")

    # -- new code for living actors -----------------------------------------------------------------------

    async def upgrade(self, changes: Mapping[str, Code], scope: Scope, spec_of: Any) -> None:
        """Let all living actors of some types go on with other code, or none of them.

        Args:
            changes: the new code by type.
            spec_of: gives an actor's specification under a code.

        Returns with every actor of these types at the new code, so that the types can be changed at once.

        Raises:
            Conflict: one could not take over its state; all are at the old code again.
        """
        done: list[tuple[Actor, ActorSpec]] = []
        changed: set[Actor] = set()
        # Until none is left: others may start with the old code meanwhile.
        while stale := [
            actor for name in changes for actor in self._registry.of_type(scope, name) if actor not in changed
        ]:
            for actor in stale:
                changed.add(actor)
                before = actor.spec
                error = await self._go_over(actor, spec_of(actor, changes[actor.address.type]))
                if error is not None and actor.alive:
                    self._events.emit(
                        UpgradeRefused(actor.address, changes[actor.address.type].component_hash, str(error))
                    )
                    for other, old in reversed(done):
                        await self._go_over(other, old)
                    raise error
                if error is None:
                    done.append((actor, before))
        for actor, _ in done:
            self._events.emit(ActorUpgraded(actor.address, actor.spec.component_hash))

    async def _go_over(self, actor: Actor, spec: ActorSpec) -> Exception | None:
        if actor.run is Run.NEW:
            actor.spec = spec
            return None
        if not actor.alive:
            return None
        done: asyncio.Future[Exception | None] = self._loop.create_future()
        self._scheduler.upgrade(actor, spec, lambda error: None if done.done() else done.set_result(error))
        return await done
