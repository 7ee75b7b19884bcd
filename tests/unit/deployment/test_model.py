"""What may be configured of a deployment, and what a component must say of itself."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.deployment.model import DeployConfig, choose_role, parse_description
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.supervision.spec import RestartPolicy

INTERFACES = frozenset({"messaging", "keyvalue"})


def test_nothing_configured_is_the_default() -> None:
    assert DeployConfig.parse({}, INTERFACES) == DeployConfig()


def test_everything_configured_is_read() -> None:
    config = {
        "role": "agent",
        "args": {"n": 1},
        "arguments": "lenient",
        "restart": "permanent",
        "capabilities": ["messaging"],
    }
    assert DeployConfig.parse(config, INTERFACES) == DeployConfig(
        "agent", '{"n":1}', "lenient", RestartPolicy.PERMANENT, frozenset({"messaging"})
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rol": "a"}, "did you mean 'role'"),
        ({"nonsense": 1}, "known are role"),
        ({"role": 1}, "role is the name"),
        ({"args": []}, "args is a JSON object"),
        ({"arguments": "lax"}, '"strict" or "lenient"'),
        ({"restart": "always"}, '"permanent", "transient" or "temporary"'),
        ({"capabilities": "messaging"}, "list of interface names"),
        ({"capabilities": ["messaging", "telepathy"]}, "'telepathy'.*keyvalue, messaging"),
    ],
)
def test_a_mistake_is_refused_with_what_is_possible(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        DeployConfig.parse(config, INTERFACES)


def test_the_only_role_is_taken_and_one_of_several_must_be_named() -> None:
    assert choose_role({"roles": {"": {}}}, "counter", "") == ""
    assert choose_role({"roles": {"only": {}}}, "counter", "") == "only"
    several = {"roles": {"agent": {}, "router": {}}}
    assert choose_role(several, "router", "") == "router"
    assert choose_role(several, "counter", "agent") == "agent"
    with pytest.raises(InvalidArgument, match="'agent', 'router'"):
        choose_role(several, "counter", "")
    with pytest.raises(InvalidArgument, match="no role 'x'"):
        choose_role(several, "counter", "x")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"roles": {}}', '{"roles": []}', '{"roles": {"": 1}}', '{"roles": {"": {}}}', "nonsense"]
)
def test_a_description_without_roles_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="describe"):
        parse_description(text)
