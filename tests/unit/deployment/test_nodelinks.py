"""Links of the node's own file, and what the operator permits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plexspaces_runtime import config
from plexspaces_runtime.config import ConfigError
from plexspaces_runtime.deployment.nodelinks import node_links

HOME = {"HOME": "/home/ada"}
GOOD = """
[egress]
permitted = ["10.1.0.0/16", "fd00:1::/32"]

[links.llm-api]
base_url = "https://api.example.com"
allow = ["POST /v1/**"]
tenants = ["acme"]

[links."search.v2"]
base_url = "https://search.example.com"
allow = ["GET /"]
"""


def load(tmp_path: Path, text: str, env: dict[str, str] | None = None, **flags: object) -> config.NodeConfig:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return config.load(file, {**HOME, **(env or {})}, flags)


def issues_of(caught: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    issues: list[str] = caught.value.details["issues"]
    return [re.sub(r"^/\S*/", "", issue) for issue in issues]


def test_links_are_read_with_the_nodes_file(tmp_path: Path) -> None:
    read = load(tmp_path, GOOD)
    links = node_links(read.links)
    assert [(link.name, link.tenants) for link in links.values()] == [("llm-api", ("acme",)), ("search.v2", ("*",))]
    assert read.egress.permitted == ("10.1.0.0/16", "fd00:1::/32")


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    env = {"PLEXSPACES_EGRESS_PERMITTED": "127.0.0.0/8, ::1/128"}
    assert load(tmp_path, GOOD, env).egress.permitted == ("127.0.0.0/8", "::1/128")
    assert load(tmp_path, GOOD, env, egress_permit=("10.0.0.0/8",)).egress.permitted == ("10.0.0.0/8",)
    assert load(tmp_path, "").egress.permitted == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[egress]\npermitted = ["10.1.0.0/99"]', "egress: permitted '10.1.0.0/99' is no range"),
        ('[egress]\npermitted = ["10.1.0.1/16"]', "egress: permitted '10.1.0.1/16' is no range"),
        ('[egress]\npermitted = ["0.0.0.0/0"]', "egress: permitted '0.0.0.0/0' is every address"),
        ('[egress]\npermitted = ["::/0"]', "egress: permitted '::/0' is every address"),
        ('[egress]\npermit = ["10.1.0.0/16"]', "node.toml:2: unknown key 'permit' in [egress]; did you mean"),
        ("links = 3", "links are one table each"),
        ("[links]\napi = 3", "node.toml:2: links are one table each"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    (issue,) = issues_of(caught)
    assert expected in issue


def test_all_mistakes_of_all_links_are_told_with_their_lines(tmp_path: Path) -> None:
    wrong = GOOD.replace('tenants = ["acme"]', 'tenants = []\nretries_max = "2"').replace('allow = ["GET /"]', "")
    with pytest.raises(ConfigError) as caught:
        node_links(load(tmp_path, wrong).links)
    told = issues_of(caught)
    assert sorted(issue.partition(": ")[0] for issue in told) == ["node.toml:11", "node.toml:8", "node.toml:9"]
    assert "links.llm-api.tenants:" in " ".join(told)
    assert "links.search.v2: a link needs 'allow'" in " ".join(told)
