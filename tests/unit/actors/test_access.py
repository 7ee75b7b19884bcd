"""Who may send what: the author's roles, the operator's, and both together."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.actors import access
from plexspaces_runtime.actors.envelope import Envelope, Kind
from plexspaces_runtime.errors import PermissionDenied
from plexspaces_runtime.scope import Address, Caller, Scope

ADDRESS = Address(Scope("acme", "default"), "orders")


def handler(*roles: str, kinds: tuple[str, ...] = ("call", "cast")) -> dict[str, Any]:
    return {"kind": list(kinds), "roles": list(roles), "parameters": {}}


def judge(
    described: dict[str, Any],
    op: str,
    *roles: str,
    configured: dict[str, list[str]] | None = None,
    kind: Kind = Kind.CALL,
    scopes: tuple[str, ...] = (),
    anonymous: bool = False,
) -> PermissionDenied | None:
    """The refusal, if there is one."""
    rules = access.read(described, configured or {})
    if rules is None:
        return None
    caller = None if anonymous else Caller("ada", frozenset(roles), "", frozenset(scopes))
    try:
        rules.check(ADDRESS, Envelope("m-1", kind, op, "{}", caller=caller))
    except PermissionDenied as denied:
        return denied
    return None


GUARDED = {"handlers": {"delete": handler("admin", "owner"), "get": handler(), "peek": handler(kinds=("cast",))}}


@pytest.mark.parametrize(
    ("op", "roles", "allowed"),
    [
        ("delete", ("admin",), True),
        ("delete", ("owner", "user"), True),
        ("delete", ("user",), False),
        ("delete", (), False),
        ("get", (), True),
        # The guest says that there is no such operation.
        ("none", (), True),
    ],
)
def test_a_handler_asks_for_one_of_its_roles(op: str, roles: tuple[str, ...], allowed: bool) -> None:
    assert (judge(GUARDED, op, *roles) is None) is allowed


def test_nobody_has_no_roles() -> None:
    assert judge(GUARDED, "delete", anonymous=True) is not None
    assert judge(GUARDED, "get", anonymous=True) is None


def test_the_refusal_names_what_is_needed_and_who_asks_for_it() -> None:
    denied = judge(GUARDED, "delete", "user")
    assert denied is not None
    assert denied.code == "permission-denied"
    assert denied.message == (
        "operation 'delete' of actor 'orders' needs the role 'admin' or the role 'owner' (its handler says so)"
    )
    assert denied.details == {"operation": "delete", "actor": "orders", "roles": ["admin", "owner"], "scopes": []}
    denied = judge({}, "get", configured={"*": ["scope:orders:read"]})
    assert denied is not None
    assert denied.message.endswith("needs the scope 'orders:read' (`authorise` of its deployment says so)")


def test_the_handler_for_all_others_guards_what_has_none_of_its_own_and_nothing_else() -> None:
    described = {"handlers": {"*": handler("admin"), "get": handler(), "put": handler("writer")}}
    assert judge(described, "anything") is not None
    assert judge(described, "anything", "admin") is None
    assert judge(described, "get") is None
    assert judge(described, "put", "admin") is not None
    assert judge(described, "put", "writer") is None


def test_a_handler_is_one_for_its_kinds() -> None:
    described = {"handlers": {"note": handler("writer", kinds=("cast",)), "*": handler("admin", kinds=("call",))}}
    assert judge(described, "note", kind=Kind.CAST) is not None
    assert judge(described, "note", "writer", kind=Kind.CAST) is None
    assert judge(described, "note", "writer") is not None
    assert judge(described, "note", "admin") is None


def test_a_workflows_run_signals_and_queries_are_told_apart() -> None:
    described = {
        "handlers": {"status": handler()},
        "run": handler("starter"),
        "signals": {"approve": handler("boss"), "*": handler("clerk")},
        "queries": {"status": handler("reader")},
    }
    assert judge(described, "run", kind=Kind.RUN) is not None
    assert judge(described, "run", "starter", kind=Kind.RUN) is None
    assert judge(described, "approve", "clerk", kind=Kind.SIGNAL) is not None
    assert judge(described, "approve", "boss", kind=Kind.SIGNAL) is None
    assert judge(described, "other", "clerk", kind=Kind.SIGNAL) is None
    assert judge(described, "status", kind=Kind.QUERY) is not None
    assert judge(described, "status", kind=Kind.CALL) is None


def test_the_operators_rules_name_operations_or_all_others() -> None:
    rules = {"*": ["user"], "delete": ["admin"], "ping": []}
    assert judge({}, "get", "user", configured=rules) is None
    assert judge({}, "get", "admin", configured=rules) is not None
    assert judge({}, "delete", "user", configured=rules) is not None
    assert judge({}, "delete", "admin", configured=rules) is None
    assert judge({}, "ping", configured=rules) is None


def test_author_and_operator_must_both_be_satisfied() -> None:
    rules = {"delete": ["staff"], "get": ["staff"]}
    assert judge(GUARDED, "delete", "admin", configured=rules) is not None
    assert judge(GUARDED, "delete", "staff", configured=rules) is not None
    assert judge(GUARDED, "delete", "admin", "staff", configured=rules) is None
    # What the author guards, an operator cannot open.
    assert judge(GUARDED, "delete", configured={"delete": []}) is not None


def test_scopes_are_asked_for_by_their_prefix_and_a_role_of_that_name_is_none() -> None:
    rules = {"delete": ["scope:orders:delete"]}
    assert judge({}, "delete", scopes=("orders:delete",), configured=rules) is None
    assert judge({}, "delete", scopes=("orders",), configured=rules) is not None
    assert judge({}, "delete", "scope:orders:delete", configured=rules) is not None
    assert judge({}, "delete", "orders:delete", configured=rules) is not None
    assert judge({"handlers": {"delete": handler("admin", "scope:x")}}, "delete", scopes=("x",)) is None


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"handlers": {"get": handler()}},
        {"handlers": None, "signals": [], "run": 3},
        {"handlers": {"get": {"kind": "call", "roles": "admin"}, "put": None}},
    ],
)
def test_where_nobody_asks_for_anything_there_is_nothing_to_check(described: dict[str, Any]) -> None:
    """Also where a component that is not of the SDK describes itself in its own way."""
    assert access.read(described, {"*": []}) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "must be a table of lists"),
        ({"delete": "admin"}, "'delete' must be a list of roles"),
        ({"delete": [1]}, "'delete' must be a list of roles"),
        ({"delete": [""]}, "'delete' must be a list of roles"),
        ({"": ["admin"]}, "'' is not an operation"),
        ({"x" * 129: ["admin"]}, "is not an operation: 1 to 128 characters"),
        ({"delete": ["scope:"]}, "'scope:' names no scope"),
    ],
)
def test_rules_that_are_wrong_are_refused_with_a_remedy(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        access.parse(value)
    assert words in str(raised.value)


def test_rules_as_they_are_written() -> None:
    written = {"*": ["user"], "x" * 128: []}
    assert access.parse(written) == {"*": frozenset({"user"}), "x" * 128: frozenset()}
