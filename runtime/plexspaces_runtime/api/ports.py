"""What the edge needs of a node, so that it can be tested over real sockets with a node that holds no wasm."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..actors.envelope import Kind
from ..actors.info import ActorInfo
from ..clock import Clock
from ..config import Limits
from ..deployment.appconfig import AppConfig
from ..deployment.checks import Report
from ..deployment.grants import GrantReport
from ..deployment.model import Deployment
from ..deployment.status import ApplicationStatus, TreeNode
from ..durability.journals import Journals
from ..egress.links import LinkState
from ..egress.vault import Vault
from ..ids import Ids
from ..scope import Address, Caller, Scope
from ..stores.blobs import Blobs
from ..stores.channels import Channels
from ..stores.promises import Promises
from ..stores.replies import ReplyTable
from ..stores.schedules import Schedules
from ..stores.streams import Streams
from ..stores.workflows import Workflows


class StorePort(Protocol):
    """What the node stores, seen from outside."""

    @property
    def streams(self) -> Streams:
        """The event streams."""

    @property
    def schedules(self) -> Schedules:
        """The scheduled appends to them."""

    @property
    def blobs(self) -> Blobs:
        """The blobs."""

    @property
    def channels(self) -> Channels:
        """The channels, for their dead letters."""

    @property
    def replies(self) -> ReplyTable:
        """The recorded answers to requests with an `Idempotency-Key`."""

    @property
    def workflows(self) -> Workflows:
        """The runs of workflows."""

    @property
    def promises(self) -> Promises:
        """The promises."""

    def flushed(self) -> Awaitable[None]:
        """Wait until everything written so far is on disk: nothing may leave the node before.

        Raises:
            Unavailable: the disk refuses.
        """


class NodePort(Protocol):
    """A node, seen from outside.  Every call is already authorised; every error is a `PlexSpacesError`."""

    clock: Clock
    ids: Ids
    limits: Limits
    quotas: Mapping[str, Limits]

    @property
    def ready(self) -> bool:
        """Whether work is accepted."""

    @property
    def home_tenant(self) -> str:
        """The tenant of the local token: its administrators run the node."""

    @property
    def vault(self) -> Vault | None:
        """What is secret; None for a node that keeps nothing."""

    def secret_users(self, tenant: str) -> Mapping[str, list[str]]:
        """By secret, the links of a tenant that name it: `namespace/link`, or `link` for the node's."""

    def veiled(self, address: Address, op: str, payload: str) -> str:
        """A message's arguments as anybody may keep them: with tokens for what is secret."""

    @property
    def journals(self) -> Journals | None:
        """What durable actors have recorded; None for a node that has none."""

    async def ask(
        self,
        address: Address,
        op: str,
        payload: str,
        *,
        caller: Caller,
        timeout_s: float,
        message_id: str = "",
        trace: str = "",
        kind: Kind = Kind.CALL,
    ) -> str:
        """Send a message and wait for the reply, JSON text; "" is no reply."""

    async def tell(
        self,
        address: Address,
        op: str,
        payload: str,
        *,
        caller: Caller,
        message_id: str = "",
        trace: str = "",
        kind: Kind = Kind.CAST,
    ) -> str:
        """Send a message; its id."""

    async def stop_actor(self, address: Address, *, kill: bool = False) -> None:
        """Stop an actor after the message it is handling, or kill it; it stays down until it is restarted."""

    async def restart_actor(self, address: Address) -> None:
        """Stop an actor, if it lives, and start it again."""

    async def deploy(self, scope: Scope, actor_type: str, wasm: Path, config: Mapping[str, Any]) -> Deployment:
        """Make a component the code of an actor type.  The file may be removed afterwards."""

    async def check(self, scope: Scope, actor_type: str, wasm: Path, config: Mapping[str, Any]) -> Report:
        """Try a component against what durable actors have recorded.  The file may be removed afterwards."""

    async def undeploy(self, scope: Scope, actor_type: str) -> None:
        """Stop a type's actors and forget it."""

    def deployments(self, tenant: str, namespace: str | None = None) -> Sequence[Deployment]:
        """What a tenant has deployed."""

    def deployment(self, scope: Scope, actor_type: str) -> Deployment | None:
        """One deployment."""

    async def deploy_application(
        self, tenant: str, config: AppConfig, components: Mapping[str, Path]
    ) -> ApplicationStatus:
        """Start an application, or change the one of that name.  The files may be removed afterwards."""

    def applications(self, tenant: str, namespace: str | None = None) -> Sequence[ApplicationStatus]:
        """A tenant's applications."""

    def application(self, tenant: str, name: str) -> ApplicationStatus:
        """One application."""

    async def restart_application(self, tenant: str, name: str) -> ApplicationStatus:
        """Stop an application's tree and start it again."""

    async def undeploy_application(self, tenant: str, name: str) -> None:
        """Stop an application and forget it."""

    def grants(self, scope: Scope, actor_type: str) -> GrantReport:
        """What a type may do, was refused and was seen to do."""

    def observe(self, scope: Scope, actor_type: str, *, on: bool) -> None:
        """Begin or end to keep what actors of a type use."""

    def namespaces(self, tenant: str) -> Sequence[str]:
        """Where a tenant has something deployed, by name."""

    def links(self, tenant: str) -> Sequence[LinkState]:
        """A tenant's ways out, and the node's that it may use, by namespace and name."""

    def tree(self, tenant: str, namespace: str | None = None) -> Sequence[TreeNode]:
        """The supervision trees: a root for each application and for each type that is deployed on its own."""

    def actors(self, tenant: str, namespace: str | None = None) -> Sequence[ActorInfo]:
        """A tenant's living actors."""

    def info(self, address: Address) -> ActorInfo:
        """One living actor."""

    def waits_for(self, address: Address) -> str:
        """What the run of a workflow waits for just now, "" if for nothing."""

    def counters(self) -> Mapping[str, float]:
        """Totals (names ending in `_total`) and gauges."""
