"""Who may do what at the edge: one table from operation to permission, and from roles and scopes to permissions.

Both doors ask here, HTTP and gRPC.  An operation that is not in the table is an administrator's: forgetting one closes
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final


class Permission(Enum):
    """What one may be allowed to do with what belongs to one's tenant."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    # Without a token.
    PUBLIC = "public"
    # Send messages to actors and workflows; follow the event streams of one's own session.
    CALL = "call"
    # See what is there: actors, deployments, streams, blobs, runs.
    VIEW = "view"
    # Keep it running, and look into messages: stop, restart, journals, dead letters, streams, blobs, promises.
    OPERATE = "operate"
    # Change what runs.
    DEPLOY = "deploy"
    # All of that, secrets too.
    ADMINISTER = "administer"


_CALL, _VIEW, _OPERATE, _DEPLOY, _ADMINISTER = (
    Permission.CALL,
    Permission.VIEW,
    Permission.OPERATE,
    Permission.DEPLOY,
    Permission.ADMINISTER,
)
_EVERYTHING: Final = frozenset(Permission)

# What a token may do that names no role of the node's and no scope of it.
DEFAULT: Final = frozenset({Permission.PUBLIC, _CALL})

# Roles that mean something to the node.  All others are for actors.
ROLES: Final[Mapping[str, frozenset[Permission]]] = {
    "viewer": DEFAULT | {_VIEW},
    "operator": DEFAULT | {_VIEW, _OPERATE},
    "deployer": DEFAULT | {_VIEW, _DEPLOY},
    "admin": _EVERYTHING,
}

# OAuth 2 scopes that mean something to the node: `plexspaces:call`, `plexspaces:view` and so on.
_SCOPE: Final = "plexspaces:"
SCOPES: Final[Mapping[str, frozenset[Permission]]] = {
    _SCOPE + each.value: _EVERYTHING if each is _ADMINISTER else frozenset({Permission.PUBLIC, each})
    for each in Permission
    if each is not Permission.PUBLIC
}

# By operation of `routes.ROUTES`, without `_by_key`.
NEEDED: Final[Mapping[str, Permission]] = {
    "healthz": Permission.PUBLIC,
    "readyz": Permission.PUBLIC,
    "metrics": Permission.PUBLIC,
    "openapi": Permission.PUBLIC,
    # Nothing of anybody's: it asks for a token.
    "chat_page": Permission.PUBLIC,
    "chat_completions": _CALL,
    "chat_models": _CALL,
    "post_actor": _CALL,
    "get_actor": _CALL,
    "delete_actor": _OPERATE,
    "restart_actor": _OPERATE,
    "get_info": _VIEW,
    "list_actors": _VIEW,
    "tree": _VIEW,
    "list_links": _VIEW,
    "deploy": _DEPLOY,
    "undeploy": _DEPLOY,
    "list_deployments": _VIEW,
    "show_grants": _VIEW,
    "observe_type": _DEPLOY,
    "forget_observed": _DEPLOY,
    "deploy_application": _DEPLOY,
    "undeploy_application": _DEPLOY,
    "restart_application": _OPERATE,
    "list_applications": _VIEW,
    "get_application": _VIEW,
    "list_streams": _VIEW,
    # Of one's own session: see `owns_stream`.
    "read_stream": _VIEW,
    "append_event": _OPERATE,
    "change_stream": _OPERATE,
    "clear_stream": _OPERATE,
    "list_schedules": _VIEW,
    "add_schedule": _OPERATE,
    "remove_schedule": _OPERATE,
    "list_blobs": _VIEW,
    "get_blob": _VIEW,
    "put_blob": _OPERATE,
    "delete_blob": _OPERATE,
    "list_dead_letters": _OPERATE,
    "retry_dead_letter": _OPERATE,
    "drop_dead_letter": _OPERATE,
    "list_journals": _OPERATE,
    "show_journal": _OPERATE,
    "verify_journal": _OPERATE,
    "recover_journal": _OPERATE,
    "list_workflows": _VIEW,
    # A run is a message that takes long.  Whoever may start it hears how far it is by starting it again.
    "start_workflow": _CALL,
    "get_workflow": _VIEW,
    "signal_workflow": _CALL,
    "query_workflow": _CALL,
    "cancel_workflow": _OPERATE,
    "forget_workflow": _OPERATE,
    "list_promises": _VIEW,
    "get_promise": _VIEW,
    "resolve_promise": _OPERATE,
    "list_secrets": _ADMINISTER,
    "get_secret": _ADMINISTER,
    "put_secret": _ADMINISTER,
    "delete_secret": _ADMINISTER,
    "rotate_secret_key": _ADMINISTER,
}


def granted(roles: Iterable[str], scopes: Iterable[str]) -> frozenset[Permission]:
    """What a token with these roles and scopes may do.

    Roles say what its subject may do, scopes what of that the token was made for: a token with both may do what both
    allow.  With scopes alone, as a service's own token, it may do what they say.  Roles and scopes that the node does
    not know count as none.
    """
    of_roles = [ROLES[role] for role in roles if role in ROLES]
    of_scopes = [SCOPES[scope] for scope in scopes if scope in SCOPES]
    by_roles = DEFAULT.union(*of_roles)
    if not of_scopes:
        return by_roles
    by_scopes = frozenset({Permission.PUBLIC}).union(*of_scopes)
    return by_scopes & by_roles if of_roles else by_scopes


def needed(operation: str) -> Permission:
    """What an operation needs."""
    return NEEDED.get(operation.removesuffix("_by_key"), Permission.ADMINISTER)


def described(permission: Permission) -> str:
    """Who may do it, for a message: the least role, and the scope."""
    if permission is _CALL:
        return f"the scope '{_SCOPE}{permission.value}', or a token without such scopes"
    role = next(role for role, permissions in ROLES.items() if permission in permissions)
    return f"the role {role!r} or the scope '{_SCOPE}{permission.value}'"


def owns_stream(session: str, path: str) -> bool:
    """Whether a stream is of a session: `sessions/SESSION`, or below it."""
    mine = f"sessions/{session}"
    path = path.strip("/")
    is_name = "/" not in session and session not in ("", ".", "..")
    return is_name and (path == mine or path.startswith(mine + "/"))
