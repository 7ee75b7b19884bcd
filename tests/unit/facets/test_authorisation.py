"""Who may send what, by role."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.actors.envelope import Envelope, Kind
from plexspaces_runtime.errors import InvalidArgument, PermissionDenied
from plexspaces_runtime.facets.authorisation import Authorisation, AuthorisationType
from plexspaces_runtime.scope import Caller

CONFIG = {"roles": ["user", "admin"], "operations": {"delete": ["admin"], "ping": []}}


def judge(config: dict[str, Any], op: str, *roles: str, anonymous: bool = False) -> PermissionDenied | None:
    caller = None if anonymous else Caller("ada", frozenset(roles))
    try:
        Authorisation("counter", AuthorisationType().parse(config)).admit(
            Envelope("m", Kind.CALL, op, "{}", caller=caller)
        )
    except PermissionDenied as denied:
        return denied
    return None


@pytest.mark.parametrize(
    ("op", "roles", "allowed"),
    [
        ("get", ("user",), True),
        ("get", ("admin",), True),
        ("get", ("guest",), False),
        ("get", (), False),
        ("delete", ("admin",), True),
        ("delete", ("user",), False),
        ("ping", (), True),
    ],
)
def test_a_role_decides_and_an_operations_own_roles_come_instead(
    op: str, roles: tuple[str, ...], allowed: bool
) -> None:
    assert (judge(CONFIG, op, *roles) is None) is allowed


def test_a_message_without_a_caller_has_no_roles() -> None:
    assert judge(CONFIG, "get", anonymous=True) is not None
    assert judge(CONFIG, "ping", anonymous=True) is None


def test_operations_alone_leave_the_others_to_everybody() -> None:
    config = {"operations": {"delete": ["admin"]}}
    assert judge(config, "get", anonymous=True) is None
    assert judge(config, "delete", "user") is not None


def test_the_refusal_names_operation_actor_and_roles() -> None:
    denied = judge(CONFIG, "get")
    assert denied is not None
    assert denied.code == "permission-denied"
    assert denied.message == "operation 'get' of actor 'counter' needs the role 'admin' or 'user'"
    assert denied.details == {"operation": "get", "roles": ["admin", "user"]}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "asks for no role"),
        ({"roles": [], "operations": {"get": []}}, "asks for no role"),
        ({"roles": "admin"}, "roles = 'admin': must be a list of names"),
        ({"operations": ["delete"]}, "must be a table"),
        ({"operations": {"delete": "admin"}}, "must be a list of names"),
        ({"role": ["admin"]}, "did you mean 'roles'?"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused_with_a_remedy(config: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        AuthorisationType().parse(config)
    assert words in raised.value.message
