"""What may be configured of a deployment, and what a component must say of itself."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.config import Limits
from plexspaces_runtime.deployment.appconfig import FacetConfig
from plexspaces_runtime.deployment.model import DeployConfig, choose_role, parse_description
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.supervision.spec import RestartPolicy


def test_nothing_configured_is_the_default() -> None:
    assert DeployConfig.parse({}) == DeployConfig()


def test_everything_configured_is_read() -> None:
    config = {
        "role": "agent",
        "args": {"n": 1},
        "arguments": "lenient",
        "restart": "permanent",
        "capabilities": ["messaging", "http:llm-*"],
        "facets": [{"type": "durability", "config": {"checkpoint_interval": 3}}],
        "labels": {"tier": "gold"},
        "shared_keys": True,
        "limits": {"state_bytes_max": 1_000},
    }
    assert DeployConfig.parse(config) == DeployConfig(
        "agent",
        '{"n":1}',
        "lenient",
        RestartPolicy.PERMANENT,
        frozenset({"messaging", "http:llm-*"}),
        (FacetConfig("durability", None, {"checkpoint_interval": 3}),),
        {"tier": "gold"},
        True,
        {"state_bytes_max": 1_000},
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
        ({"capabilities": "messaging"}, "config: capabilities: 'messaging' is not a list of texts"),
        ({"capabilities": ["messaging", "telepathy"]}, "no capability 'telepathy'; there are messaging, "),
        ({"facets": [{"typ": "durability"}]}, r"config: facets\[1\]\.typ: there is no such key.*did you mean 'type'"),
        ({"shared_keys": 1}, "config: shared_keys: 1 is neither true nor false"),
        ({"limits": {"state_bytes_max": 10**9}}, "config: limits.state_bytes_max: .* is more than the node allows"),
        ({"labels": {"a=b": "c"}, "capabilities": [1]}, "capabilities: .*labels|labels.*capabilities"),
    ],
)
def test_a_mistake_is_refused_with_what_is_possible(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        DeployConfig.parse(config, limits=Limits())


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
