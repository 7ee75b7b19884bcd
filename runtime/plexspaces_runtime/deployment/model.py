"""What a deployment is, and what may be configured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

import orjson

from ..config import Limits
from ..errors import InvalidArgument
from ..scope import Scope
from ..supervision.spec import RestartPolicy
from .appconfig import FacetConfig, FacetTypes, read_actor_keys
from .grants import CapabilityNews

# Keys that mean what they mean in app-config.toml.
_AS_OF_A_CHILD: Final = ("capabilities", "facets", "labels", "shared_keys", "limits", "authorise")

# The schemas of a hundred handlers are some ten thousand characters.
_DESCRIPTION_CHARS_MAX: Final = 1 << 20
_ROLES_SHOWN: Final = 20
_ROLE_CHARS_SHOWN: Final = 80


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
        capabilities: what it is granted, and what of that is new.
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
    capabilities: CapabilityNews = field(default_factory=CapabilityNews)


@dataclass(frozen=True, slots=True)
class DeployConfig:
    """The optional `config` of a deployment.

    Attributes:
        role: which of the component's actors; "" takes the only one, or the one that is called like the type.
        args: a JSON object for `init`.
        arguments: "strict" refuses unknown arguments of messages, "lenient" ignores them.
        restart: what happens after a crash.
        capabilities: entries of what the actor may ask of the host; None for what is granted where nothing is said.
        facets: what is wrapped around it, beside what its author declares.
        labels: what the registry finds it by.
        shared_keys: all actors of the type have one key-value space, not one each.
        limits: fields of `Limits` that are its own.
        authorise: roles and scopes of which a caller needs one, by operation.
    """

    role: str = ""
    args: str = "{}"
    arguments: str = "strict"
    restart: RestartPolicy = RestartPolicy.TRANSIENT
    capabilities: frozenset[str] | None = None
    facets: tuple[FacetConfig, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    shared_keys: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)
    authorise: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def parse(
        cls, config: Mapping[str, Any], *, facet_types: FacetTypes | None = None, limits: Limits | None = None
    ) -> DeployConfig:
        """Read a configuration strictly.

        Args:
            config: as it was sent.
            facet_types, limits: as for `appconfig.parse`.

        Raises:
            InvalidArgument: an unknown key or a wrong value; the message says what is possible.
        """
        known = ("role", "args", "arguments", "restart", *_AS_OF_A_CHILD)
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
        others = read_actor_keys(config, _AS_OF_A_CHILD, facet_types=facet_types, limits=limits)
        return cls(role, _args_text(args), arguments, restart, **others)


def _args_text(args: dict[str, Any]) -> str:
    try:
        return orjson.dumps(args).decode()
    except orjson.JSONEncodeError as error:
        # JSON can be read four times as deep as it can be written.
        raise InvalidArgument(f"config: args cannot be kept: {error}") from None


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
    shown = ", ".join(repr(role[:_ROLE_CHARS_SHOWN]) for role in list(roles)[:_ROLES_SHOWN]) or "none"
    return shown if len(roles) <= _ROLES_SHOWN else f"{shown} and {len(roles) - _ROLES_SHOWN} more"


def parse_description(text: str) -> dict[str, Any]:
    """The `describe` of a component, checked for the parts the node relies on.

    Raises:
        InvalidArgument: it is not what `describe` must return.
    """
    if len(text) > _DESCRIPTION_CHARS_MAX:
        raise InvalidArgument(
            f"the component's `describe` answers {len(text)} characters; at most {_DESCRIPTION_CHARS_MAX} are read"
        )
    try:
        description = orjson.loads(text)
        # JSON can be read four times as deep as it can be written; the answers that show it nest some levels more.
        orjson.dumps([[[[[[[[description]]]]]]]])
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
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
