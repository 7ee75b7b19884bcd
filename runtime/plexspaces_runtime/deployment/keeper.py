"""Deploys actor types, keeps their actors alive, and replaces their code while they live."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from ..actors import exits
from ..actors.actor import Actor, ActorSpec, Stop, Upgrade
from ..actors.asks import Asks
from ..actors.exits import Exit
from ..actors.guest import Failure, Result, Trapped
from ..actors.registry import Registry
from ..clock import Clock
from ..config import Limits
from ..errors import ActorExited, AlreadyExists, HandlerCrashed, InvalidComponent, NotFound, PlexSpacesError
from ..events import (
    ActorExited as ActorExitedEvent,
)
from ..events import (
    ActorRestartDelayed,
    ActorStarted,
    ActorUpgraded,
    ComponentDeployed,
    DeploymentRefused,
    EventBus,
    Undeployed,
    UpgradeRefused,
)
from ..scheduler import Scheduler
from ..scope import Address, Scope, check_name
from ..supervision.restart import Intensity, Restart, RestartPolicy, decide
from ..wasm.engine import Program, Sandbox
from .model import DeployConfig, Deployment, choose_role, parse_description

_INTENSITY = Intensity()


@dataclass(slots=True)
class _Type:
    """A deployed actor type."""

    deployment: Deployment
    spec: ActorSpec
    restart: RestartPolicy


@dataclass(slots=True, eq=False)
class _Kept:
    """What is remembered of one actor across its incarnations."""

    restart: RestartPolicy
    restarts: int = 0
    history: tuple[float, ...] = field(default=())
    last_exit: Exit | None = None
    # Not restarted if it dies before it has once been up: whoever starts it hears why instead.
    started: bool = False


class Keeper:
    """Everything between "this component is actor type X" and living actors.

    Args:
        sandbox: compiles components and makes instances.
        limits: of every actor.
    """

    def __init__(
        self,
        *,
        sandbox: Sandbox,
        scheduler: Scheduler,
        registry: Registry,
        asks: Asks,
        clock: Clock,
        events: EventBus,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._sandbox = sandbox
        self._scheduler = scheduler
        self._registry = registry
        self._asks = asks
        self._clock = clock
        self._events = events
        self._limits = limits
        self._loop = loop
        self._types: dict[tuple[Scope, str], _Type] = {}
        # One deployment of a type at a time; an entry lives as long as somebody deploys.
        self._locks: dict[tuple[Scope, str], asyncio.Lock] = {}
        self._kept: dict[Address, _Kept] = {}
        self._delayed: dict[Address, asyncio.TimerHandle] = {}
        # Told when an actor is gone for good.
        self._gone: dict[Address, list[asyncio.Future[None]]] = {}
        self.closing = False
        self.restarts = 0
        self.crashes = 0

    # -- types --------------------------------------------------------------------------------------------

    async def deploy(self, scope: Scope, actor_type: str, wasm: bytes | Path, config: Mapping[str, Any]) -> Deployment:
        """Make `wasm` the code of an actor type: start its actor, or let the living ones go on with the new code.

        Raises:
            InvalidComponent: not a sealed component of our world.
            InvalidArgument: the configuration is wrong.
            HandlerCrashed: the actor's `init` failed; nothing was deployed.
            Conflict: a living actor's state did not fit the new version; all stay at the old one.
        """
        key = (scope, check_name("actor type", actor_type))
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                return await self._deploy(scope, actor_type, wasm, config)
        except PlexSpacesError as error:
            self._events.emit(DeploymentRefused(scope, actor_type, error.code, error.message))
            raise
        finally:
            if not lock.locked():
                self._locks.pop(key, None)

    async def _deploy(self, scope: Scope, actor_type: str, wasm: bytes | Path, config: Mapping[str, Any]) -> Deployment:
        interfaces = frozenset(self._sandbox.package.interfaces)
        wanted = DeployConfig.parse(config, interfaces)
        program = await self._sandbox.load(wasm)
        description = parse_description(await self._describe(program, scope))
        role = choose_role(description, actor_type, wanted.role)
        spec = self._spec(program, role, wanted)
        old = self._types.get((scope, actor_type))
        loaded = program.loaded
        deployment = Deployment(
            scope=scope,
            actor_type=actor_type,
            hash=loaded.hash,
            size_bytes=loaded.size_bytes,
            imports=tuple(loaded.audit.imports),
            roles=tuple(description["roles"]),
            handlers=description["roles"][role]["handlers"],
            version=1 if old is None else old.deployment.version + 1,
            replaced=old is not None,
        )
        living = self._registry.of_type(scope, actor_type)
        await self._upgrade_all(living, spec, old)
        if old is None or not living:
            await self.start(Address(scope, actor_type), spec, wanted.restart)
        for actor in living:
            self._kept[actor.address].restart = wanted.restart
        self._types[scope, actor_type] = _Type(deployment, spec, wanted.restart)
        self._events.emit(
            ComponentDeployed(scope, actor_type, deployment.hash, deployment.version, deployment.size_bytes)
        )
        return deployment

    async def undeploy(self, scope: Scope, actor_type: str) -> None:
        """Stop the type's actors and forget it.

        Raises:
            NotFound
        """
        if self._types.pop((scope, actor_type), None) is None:
            raise NotFound(f"actor type {actor_type!r} is not deployed in namespace {scope.namespace!r}")
        await asyncio.gather(*(self.stop(actor.address) for actor in self._registry.of_type(scope, actor_type)))
        self._events.emit(Undeployed(scope, actor_type))

    def deployments(self, tenant: str, namespace: str | None = None) -> list[Deployment]:
        """What is deployed for a tenant, by name."""
        return [
            type_.deployment
            for (scope, _), type_ in sorted(self._types.items(), key=lambda item: (item[0][0].namespace, item[0][1]))
            if scope.tenant == tenant and namespace in (None, scope.namespace)
        ]

    def deployment(self, scope: Scope, actor_type: str) -> Deployment | None:
        """One deployment."""
        type_ = self._types.get((scope, actor_type))
        return type_.deployment if type_ is not None else None

    # -- actors -------------------------------------------------------------------------------------------

    async def spawn(self, address: Address, args: Mapping[str, Any] | None = None) -> None:
        """Start an actor of a deployed type under a key of its own.

        Raises:
            NotFound: the type is not deployed.
            AlreadyExists, LimitExceeded, HandlerCrashed
        """
        deploying = self._locks.get((address.scope, address.type))
        if deploying is not None:
            # A new version is taking over: what starts now starts with it.
            async with deploying:
                pass
        type_ = self._types.get((address.scope, address.type))
        if type_ is None:
            raise NotFound(f"actor type {address.type!r} is not deployed in namespace {address.scope.namespace!r}")
        spec = type_.spec if args is None else replace(type_.spec, args=orjson.dumps(args).decode())
        await self.start(address, spec, type_.restart)

    async def start(self, address: Address, spec: ActorSpec, restart: RestartPolicy) -> None:
        """Start an actor and wait until it is ready.

        Raises:
            AlreadyExists: it lives already.
            HandlerCrashed: it could not start; the message says why.
        """
        if address in self._kept:
            raise AlreadyExists(f"actor {address.text!r} exists already in namespace {address.scope.namespace!r}")
        actor = Actor(address, spec, self._exited, started_ms=self._clock.now_ns() // 1_000_000)
        self._registry.add(actor)
        self._kept[address] = _Kept(restart)
        ready: asyncio.Future[Exit | None] = self._loop.create_future()
        self._scheduler.start(actor, None, lambda exit_: None if ready.done() else ready.set_result(exit_))
        failed = await ready
        if failed is not None:
            raise HandlerCrashed(
                f"actor {address.text!r} could not start: {failed.message or failed.text}", exit=failed.text
            )
        kept = self._kept.get(address)
        if kept is not None:
            kept.started = True
        self._events.emit(ActorStarted(address, spec.component_hash, 0))

    async def stop(self, address: Address, *, kill: bool = False, exit_: Exit = exits.SHUTDOWN) -> None:
        """End an actor for good and wait until it is gone; one that is gone already is no error."""
        actor = self._registry.find(address.scope, address.text)
        if actor is None:
            return
        gone: asyncio.Future[None] = self._loop.create_future()
        self._gone.setdefault(address, []).append(gone)
        if (timer := self._delayed.pop(address, None)) is not None:
            timer.cancel()
            kill = True
        if kill:
            self._kept[address].restart = RestartPolicy.TEMPORARY
            self._scheduler.kill(actor, exits.KILLED if exit_ is exits.SHUTDOWN else exit_)
        else:
            self._scheduler.stop(actor, exit_)
        await gone

    def restarts_of(self, address: Address) -> tuple[int, Exit | None]:
        """How often an actor was restarted, and why the last time."""
        kept = self._kept.get(address)
        return (kept.restarts, kept.last_exit) if kept is not None else (0, None)

    # -- exits --------------------------------------------------------------------------------------------

    def _exited(self, actor: Actor, exit_: Exit) -> None:
        """An incarnation has ended: its name passes to a successor at once, or to nobody."""
        address = actor.address
        self._registry.remove(actor)
        kept = self._kept[address]
        kept.last_exit = exit_
        if not exit_.orderly:
            self.crashes += 1
        message_id = actor.current_id
        self._events.emit(ActorExitedEvent(address, exit_.text, exit_.orderly, exit_.traceback, message_id))
        wants_stop = any(isinstance(signal, Stop) for signal in actor.mailbox.signals)
        verdict = decide(kept.restart, exit_, kept.history, self._clock.monotonic_ns() / 1e9, _INTENSITY)
        if kept.started and not self.closing and not wants_stop and isinstance(verdict, Restart):
            self._succeed(actor, kept, verdict)
        else:
            self._bury(actor, exit_)

    def _succeed(self, dead: Actor, kept: _Kept, verdict: Restart) -> None:
        """A new incarnation with the same name and mailbox."""
        address = dead.address
        kept.history = verdict.history
        kept.restarts += 1
        self.restarts += 1
        actor = Actor(
            address, dead.spec, self._exited, started_ms=self._clock.now_ns() // 1_000_000, mailbox=dead.mailbox
        )
        self._registry.add(actor)

        def begin() -> None:
            self._delayed.pop(address, None)
            self._scheduler.start(actor, None, started)

        def started(failed: Exit | None) -> None:
            if failed is None:
                self._events.emit(ActorStarted(address, actor.spec.component_hash, kept.restarts))

        if verdict.delay_s:
            self._events.emit(ActorRestartDelayed(address, verdict.delay_s, len(verdict.history), _INTENSITY.window_s))
        # Never from within the exit itself: whoever asked for the message under way hears of the crash first.
        self._delayed[address] = self._loop.call_later(verdict.delay_s, begin)

    def _bury(self, actor: Actor, exit_: Exit) -> None:
        """Nobody succeeds: what waits in the mailbox is answered."""
        address = actor.address
        del self._kept[address]
        while (signal := actor.mailbox.take_system()) is not None:
            if isinstance(signal, Upgrade):
                signal.on_done(_gone_error(address, exit_))
        for envelope in actor.mailbox.drain():
            if envelope.pending is not None:
                self._asks.end(envelope.pending, _gone_error(address, exit_))
        for gone in self._gone.pop(address, []):
            if not gone.done():
                gone.set_result(None)

    # -- parts of deploying -------------------------------------------------------------------------------

    def _spec(self, program: Program, role: str, config: DeployConfig) -> ActorSpec:
        limits = self._limits
        return ActorSpec(
            new_guest=lambda: self._sandbox.instance(program, limits),
            component_hash=program.loaded.hash,
            limits=limits,
            role=role,
            args=config.args,
            facets=orjson.dumps({"arguments": config.arguments}).decode(),
            capabilities=config.capabilities,
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

    async def _upgrade_all(self, actors: list[Actor], spec: ActorSpec, old: _Type | None) -> None:
        """All of a type's actors go on with the new code, or none does."""
        done: list[Actor] = []
        for actor in actors:
            error = await self._upgrade(actor, spec)
            if error is not None:
                self._events.emit(UpgradeRefused(actor.address, spec.component_hash, str(error)))
                if old is not None:
                    for changed in done:
                        await self._upgrade(changed, old.spec)
                raise error
            done.append(actor)
            self._events.emit(ActorUpgraded(actor.address, spec.component_hash))

    async def _upgrade(self, actor: Actor, spec: ActorSpec) -> Exception | None:
        done: asyncio.Future[Exception | None] = self._loop.create_future()
        self._scheduler.upgrade(actor, spec, lambda error: None if done.done() else done.set_result(error))
        return await done


def _gone_error(address: Address, exit_: Exit) -> ActorExited:
    return ActorExited(f"actor {address.text!r} ended ({exit_.text}) before it came to this message", exit=exit_.text)
