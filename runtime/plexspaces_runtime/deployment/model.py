"""What a deployment is, and what may be configured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import orjson

from ..errors import InvalidArgument
from ..scope import Scope
from ..supervision.spec import RestartPolicy


@dataclass(frozen=True, slots=True)
class Deployment:
    """An actor type as it is deployed now.

    Attributes:
        hash: SHA-256 of the component, hexadecimal.
        imports: the interfaces it imports, in full.
        roles: the actors that the component holds; "" is the only one.
        handlers: by operation: kinds, roles, JSON Schemas of arguments and reply, as `describe` says.
        version: 1 for the first deployment of this type, one more for each new one.
        replaced: this deployment took another's place.
    """

    scope: Scope
    actor_type: str
    hash: str
    size_bytes: int
    imports: tuple[str, ...]
    roles: tuple[str, ...]
    handlers: Mapping[str, Any]
    version: int
    replaced: bool


@dataclass(frozen=True, slots=True)
class DeployConfig:
    """The optional `config` of a deployment.

    Attributes:
        role: which of the component's actors; "" takes the only one, or the one that is called like the type.
        args: a JSON object for `init`.
        arguments: "strict" refuses unknown arguments of messages, "lenient" ignores them.
        restart: what happens after a crash.
        capabilities: the WIT interfaces the actor may call; None grants all.
    """

    role: str = ""
    args: str = "{}"
    arguments: str = "strict"
    restart: RestartPolicy = RestartPolicy.TRANSIENT
    capabilities: frozenset[str] | None = None

    @classmethod
    def parse(cls, config: Mapping[str, Any], interfaces: frozenset[str]) -> DeployConfig:
        """Read a configuration strictly.

        Args:
            config: as it was sent.
            interfaces: the names that `capabilities` may hold.

        Raises:
            InvalidArgument: an unknown key or a wrong value; the message says what is possible.
        """
        known = ("role", "args", "arguments", "restart", "capabilities")
        for key in config:
            if key not in known:
                near = get_close_matches(str(key), known, 1)
                hint = f"did you mean {near[0]!r}?" if near else "known are " + ", ".join(known)
                raise InvalidArgument(f"config: {key!r} is not known; {hint}")
        role = config.get("role", "")
        if not isinstance(role, str):
            raise InvalidArgument("config: role is the name of one of the component's actors, a string")
        args = config.get("args", {})
        if not isinstance(args, dict):
            raise InvalidArgument("config: args is a JSON object, handed to the actor's init")
        arguments = config.get("arguments", "strict")
        if arguments not in ("strict", "lenient"):
            raise InvalidArgument('config: arguments is "strict" or "lenient"')
        try:
            restart = RestartPolicy(config.get("restart", "transient"))
        except ValueError:
            raise InvalidArgument('config: restart is "permanent", "transient" or "temporary"') from None
        capabilities = config.get("capabilities")
        if capabilities is None:
            return cls(role, orjson.dumps(args).decode(), arguments, restart)
        if not isinstance(capabilities, list) or not all(isinstance(name, str) for name in capabilities):
            raise InvalidArgument("config: capabilities is a list of interface names")
        unknown = sorted(set(capabilities) - interfaces)
        if unknown:
            raise InvalidArgument(
                f"config: capabilities {', '.join(map(repr, unknown))} are not known; there are "
                + ", ".join(sorted(interfaces))
            )
        return cls(role, orjson.dumps(args).decode(), arguments, restart, frozenset(capabilities))


def choose_role(description: Mapping[str, Any], actor_type: str, wanted: str) -> str:
    """Which of a component's roles an actor type is.

    Raises:
        InvalidArgument: the wanted one is not there, or several are and none was named.
    """
    roles: Mapping[str, Any] = description["roles"]
    if wanted:
        if wanted not in roles:
            raise InvalidArgument(f"the component has no role {wanted!r}; it has {_listed(roles)}")
        return wanted
    if actor_type in roles:
        return actor_type
    if len(roles) == 1:
        return next(iter(roles))
    raise InvalidArgument(
        f"the component holds several actors ({_listed(roles)}): say which one {actor_type!r} is, "
        'with config {"role": ...}'
    )


def _listed(roles: Mapping[str, Any]) -> str:
    return ", ".join(repr(role) for role in roles) or "none"


def parse_description(text: str) -> dict[str, Any]:
    """The `describe` of a component, checked for the parts the node relies on.

    Raises:
        InvalidArgument: it is not what `describe` must return.
    """
    try:
        description = orjson.loads(text)
    except orjson.JSONDecodeError:
        description = None
    if (
        not isinstance(description, dict)
        or not isinstance(description.get("roles"), dict)
        or not description["roles"]
        or not all(
            isinstance(role, dict) and isinstance(role.get("handlers"), dict) for role in description["roles"].values()
        )
    ):
        raise InvalidArgument(
            "the component's `describe` does not answer a JSON object with `roles` and their `handlers`: "
            "see wit/plexspaces-actor/world.wit"
        )
    return description
