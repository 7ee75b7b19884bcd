"""What a token may do, by its roles and scopes; every route of the table has chosen."""

from __future__ import annotations

import pytest

from plexspaces_runtime.api.auth import Principal
from plexspaces_runtime.api.permissions import DEFAULT, NEEDED, ROLES, Permission, granted, needed, owns_stream
from plexspaces_runtime.api.routes import ROUTES
from plexspaces_runtime.errors import PermissionDenied

CALL, VIEW, OPERATE, DEPLOY, ADMINISTER, PUBLIC = (
    Permission.CALL,
    Permission.VIEW,
    Permission.OPERATE,
    Permission.DEPLOY,
    Permission.ADMINISTER,
    Permission.PUBLIC,
)


def test_every_route_has_chosen_who_may_use_it() -> None:
    operations = {route.operation.removesuffix("_by_key") for route in ROUTES}
    assert operations == set(NEEDED)


def test_what_needs_no_token_needs_no_permission_and_nothing_else() -> None:
    for route in ROUTES:
        assert route.public is (needed(route.operation) is PUBLIC), route.operation


def test_what_changes_something_needs_more_than_looking() -> None:
    for route in ROUTES:
        if route.method not in ("GET", "HEAD"):
            assert needed(route.operation) is not VIEW, route.operation


def test_an_operation_that_has_not_chosen_is_an_administrators() -> None:
    assert needed("something_new") is ADMINISTER


@pytest.mark.parametrize(
    ("roles", "scopes", "permissions"),
    [
        ([], [], {CALL}),
        (["user"], ["email", "openid"], {CALL}),
        (["viewer"], [], {CALL, VIEW}),
        (["operator"], [], {CALL, VIEW, OPERATE}),
        (["deployer"], [], {CALL, VIEW, DEPLOY}),
        (["deployer", "operator"], [], {CALL, VIEW, OPERATE, DEPLOY}),
        (["admin"], [], {CALL, VIEW, OPERATE, DEPLOY, ADMINISTER}),
        # A service's own token: its scopes are all that it has.
        ([], ["plexspaces:view"], {VIEW}),
        (["user"], ["plexspaces:deploy", "openid"], {DEPLOY}),
        ([], ["plexspaces:administer"], {CALL, VIEW, OPERATE, DEPLOY, ADMINISTER}),
        ([], ["plexspaces:public", "plexspaces:everything"], {CALL}),
        # A token that somebody made for a part of what he may do.
        (["admin"], ["plexspaces:call"], {CALL}),
        (["viewer"], ["plexspaces:call", "plexspaces:deploy"], {CALL}),
        (["operator"], ["plexspaces:administer"], {CALL, VIEW, OPERATE}),
    ],
)
def test_roles_say_what_one_may_and_scopes_narrow_it(
    roles: list[str], scopes: list[str], permissions: set[Permission]
) -> None:
    assert granted(roles, scopes) == permissions | {PUBLIC}


def test_roles_only_add() -> None:
    for permissions in ROLES.values():
        assert permissions >= DEFAULT


def test_the_refusal_says_what_would_allow_it() -> None:
    with pytest.raises(PermissionDenied) as raised:
        Principal("acme", "ada").require("deploy")
    assert raised.value.message == (
        "this token may not do that: it needs the role 'deployer' or the scope 'plexspaces:deploy'"
    )
    assert raised.value.details == {"operation": "deploy", "permission": "deploy"}
    with pytest.raises(PermissionDenied, match="the role 'operator'"):
        Principal("acme", "ada", frozenset({"viewer"})).require("delete_actor_by_key")


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("sessions/s1", True),
        ("sessions/s1/tools", True),
        ("/sessions/s1", True),
        ("sessions/s10", False),
        ("sessions", False),
        ("audit/sessions/s1", False),
        ("", False),
    ],
)
def test_a_session_follows_its_own_streams(path: str, own: bool) -> None:
    assert owns_stream("s1", path) is own
    principal = Principal("acme", "ada", session="s1")
    if own:
        principal.require("read_stream", stream=path)
    else:
        with pytest.raises(PermissionDenied):
            principal.require("read_stream", stream=path)


def test_who_has_no_session_or_one_that_is_a_path_owns_no_stream() -> None:
    assert not owns_stream("", "sessions/")
    assert not owns_stream("", "sessions//x")
    assert not owns_stream("a/b", "sessions/a/b")
    assert not owns_stream("..", "sessions/../audit")


def test_a_token_without_the_scope_to_call_follows_no_stream() -> None:
    token = Principal("acme", "ada", session="s1", scopes=frozenset({"plexspaces:deploy"}))
    with pytest.raises(PermissionDenied):
        token.require("read_stream", stream="sessions/s1")
