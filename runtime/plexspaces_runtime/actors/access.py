"""Who may send what to an actor: the roles and scopes that its author and its operator ask for, by operation.

The author writes them beside a handler, the operator beside a child; where both do, both must be met.  The node asks
before a message enters the mailbox, so that no code of the guest runs for whoever may not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import PermissionDenied
from ..scope import Address, Caller
from .envelope import Envelope, Kind

# An entry that begins so names a scope of the token, any other a role.
SCOPE_PREFIX: Final = "scope:"
# Stands for every operation that is not named.
OTHERS: Final = "*"

_OPERATION_CHARS_MAX: Final = 128
_MESSAGES: Final = frozenset({Kind.CALL, Kind.CAST})


@dataclass(frozen=True, slots=True)
class Need:
    """One of these is needed; nothing at all if it is empty.

    Attributes:
        entries: as they were written.
    """

    entries: frozenset[str]
    roles: frozenset[str] = field(init=False, compare=False, repr=False)
    scopes: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Apart, so that a token's role that is called like a scope is none.
        scopes = {each for each in self.entries if each.startswith(SCOPE_PREFIX)}
        object.__setattr__(self, "roles", self.entries - scopes)
        object.__setattr__(self, "scopes", frozenset(each.removeprefix(SCOPE_PREFIX) for each in scopes))

    def is_met_by(self, caller: Caller | None) -> bool:
        """Whether a caller has one; nobody has none."""
        if not self.entries:
            return True
        if caller is None:
            return False
        return not (self.roles.isdisjoint(caller.roles) and self.scopes.isdisjoint(caller.scopes))


_NOTHING: Final = Need(frozenset())


@dataclass(frozen=True, slots=True)
class Access:
    """Everything that is asked for at one actor type.

    Attributes:
        declared: by kind and operation, what the handlers ask for; only those that do.
        open: handlers that ask for nothing, by kind and operation, where there is one for all others.
        configured: by operation, what the operator asks for; `*` is for all others.
    """

    declared: Mapping[tuple[Kind, str], Need]
    open: frozenset[tuple[Kind, str]] = frozenset()
    configured: Mapping[str, Need] = field(default_factory=dict)

    def check(self, address: Address, envelope: Envelope) -> None:
        """Refuse a message whose caller has not what is needed.

        Raises:
            PermissionDenied: the message names what is.
        """
        kind, op, caller = envelope.kind, envelope.op, envelope.caller
        declared = self.declared.get((kind, op))
        if declared is None:
            is_open = (kind, op) in self.open
            declared = _NOTHING if is_open else self.declared.get((kind, OTHERS), _NOTHING)
        if not declared.is_met_by(caller):
            raise _denied(address, op, declared, "its handler")
        if self.configured:
            configured = self.configured.get(op) or self.configured.get(OTHERS, _NOTHING)
            if not configured.is_met_by(caller):
                raise _denied(address, op, configured, "`authorise` of its deployment")


def parse(value: object) -> dict[str, frozenset[str]]:
    """What an operator asks for, as it is written: lists of roles and scopes by operation.

    Raises:
        ValueError: it is something else; the message says what it should be.
    """
    shape = 'a table of lists, such as { "*" = ["user"], delete = ["admin", "scope:orders:delete"] }'
    if not isinstance(value, Mapping):
        raise ValueError(f"must be {shape}")
    for op, entries in value.items():
        if not isinstance(op, str) or not 0 < len(op) <= _OPERATION_CHARS_MAX:
            raise ValueError(f"{str(op)[:60]!r} is not an operation: 1 to {_OPERATION_CHARS_MAX} characters")
        if not isinstance(entries, list) or not all(isinstance(each, str) and each for each in entries):
            raise ValueError(f"{op[:60]!r} must be a list of roles, or of scopes as 'scope:NAME': write {shape}")
        if SCOPE_PREFIX in entries:
            raise ValueError(f"{op[:60]!r}: 'scope:' names no scope: write its name behind it")
    return {op: frozenset(entries) for op, entries in value.items()}


def read(described: Mapping[str, Any], configured: Mapping[str, Iterable[str]]) -> Access | None:
    """What is asked for at an actor type; None if nothing is.

    Args:
        described: one role of a component's `describe`.
        configured: entries by operation, as the operator wrote them.
    """
    declared: dict[tuple[Kind, str], Need] = {}
    silent: set[tuple[Kind, str]] = set()

    def note(kinds: Iterable[Kind], op: str, handler: object) -> None:
        roles = handler.get("roles") if isinstance(handler, Mapping) else None
        entries = frozenset(each for each in roles if isinstance(each, str)) if isinstance(roles, list) else frozenset()
        for kind in kinds:
            if entries:
                declared[kind, op] = Need(entries)
            else:
                silent.add((kind, op))

    for op, handler in _entries(described, "handlers"):
        wanted = handler.get("kind") if isinstance(handler, Mapping) else None
        kinds = [kind for kind in _MESSAGES if not isinstance(wanted, list) or kind.value in wanted]
        note(kinds, op, handler)
    note([Kind.RUN], "run", described.get("run"))
    for kind, name in ((Kind.SIGNAL, "signals"), (Kind.QUERY, "queries")):
        for op, handler in _entries(described, name):
            note([kind], op, handler)
    needs = {op: Need(frozenset(entries)) for op, entries in configured.items()}
    if not declared and not any(need.entries for need in needs.values()):
        return None
    return Access(declared, frozenset(silent) if any(op == OTHERS for _, op in declared) else frozenset(), needs)


def _entries(described: Mapping[str, Any], name: str) -> Iterable[tuple[str, object]]:
    content = described.get(name)
    return content.items() if isinstance(content, Mapping) else ()


def _denied(address: Address, op: str, need: Need, asked_by: str) -> PermissionDenied:
    names = [f"role {each!r}" for each in sorted(need.roles)] + [f"scope {each!r}" for each in sorted(need.scopes)]
    return PermissionDenied(
        f"operation {op!r} of actor {address.text!r} needs the {' or the '.join(names)} ({asked_by} says so)",
        operation=op,
        actor=address.text,
        roles=sorted(need.roles),
        scopes=sorted(need.scopes),
    )
