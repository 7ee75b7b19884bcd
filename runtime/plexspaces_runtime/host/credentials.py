"""Credentials that actors give into the node's vault: the part of `plexspaces:actor/http` that needs no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..actors.actor import Actor
from ..actors.guest import HostRequest
from ..errors import Unavailable

if TYPE_CHECKING:
    from ..egress.vault import Vault
    from .gate import Host

REGISTER: Final = "register-credential"


def register_credential(host: Host, actor: Actor, phantom_token: str, credential: str, links: list[str]) -> str:
    """Let a token stand for a credential in requests through these links."""
    vault = _vault(host)
    if host.egress is None:
        raise Unavailable("this node has no way out")
    for link in links:
        host.egress.find(actor.address.scope, link)
    keeper = actor.keeper
    # The same token when a durable actor's call is made again, because nobody has recorded that it was made.
    mark = keeper.next_id() if keeper is not None and keeper.recording and not phantom_token else ""
    return vault.register(actor.address, phantom_token, vault.uncovered(credential), links, mark=mark)


def forget_credential(host: Host, actor: Actor, phantom_token: str) -> bool:
    """Forget what a token stands for."""
    return _vault(host).forget(actor.address.scope, phantom_token)


def covered(host: Host, actor: Actor, request: HostRequest) -> HostRequest:
    """A call of `register-credential` as a durable actor's journal may show it."""
    if host.vault is None:
        return request
    token, credential, links = request.arguments
    return HostRequest(request.interface, request.function, (token, host.vault.cover(actor.address, credential), links))


def _vault(host: Host) -> Vault:
    if host.vault is None:
        raise Unavailable("this node keeps no credentials")
    return host.vault
