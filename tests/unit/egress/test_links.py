"""Reading a link: everything that is wrong at once, nothing taken for something else."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from plexspaces_runtime.egress.links import LINK_KEYS, Link, LinkIssues, parse_link, parse_rule
from plexspaces_runtime.egress.model import PhantomSlots, Slot
from plexspaces_runtime.egress.urls import canonical_target
from plexspaces_runtime.errors import InvalidArgument

LEAST = {"base_url": "https://api.example", "allow": ["GET /x"]}


def read(**table: Any) -> Link:
    return parse_link("api", LEAST | table)


def issues(**table: Any) -> dict[tuple[str | int, ...], str]:
    with pytest.raises(LinkIssues) as refused:
        read(**table)
    return {issue.path: issue.text for issue in refused.value.issues}


def test_the_least_link_has_the_documented_defaults() -> None:
    link = read()
    for key in LINK_KEYS:
        if key.default not in ("required", ""):
            value = getattr(link, key.field or key.name)
            spoken = str(value).lower() if isinstance(value, bool) else value
            if key.name in ("actors", "tenants"):
                assert key.default == '["*"]'
                assert value == ("*",)
            elif key.name == "phantoms":
                assert value == PhantomSlots(frozenset({"authorization", "x-api-key"}))
            elif isinstance(spoken, str):
                assert key.default.strip('"') == spoken
            else:
                assert float(key.default.replace("_", "")) == value


def test_every_field_of_a_link_has_a_key() -> None:
    fields = {field.name for field in dataclasses.fields(Link)} - {"name"}
    assert fields == {key.field or key.name for key in LINK_KEYS}
    assert all(key.doc.endswith(".") for key in LINK_KEYS)


def test_a_link_is_read_as_it_is_written() -> None:
    link = parse_link(
        "llm.api",
        {
            "base_url": "HTTPS://API.Example.:443/v1/",
            "allow": ["post /chat/*", "* /files/**", "GET /search?q&%70age", "GET /"],
            "auth": [
                {"header": "Authorization", "value": "Bearer ${secret:a}"},
                {"query": "k", "value": "${secret:b}${secret:a}"},
            ],
            "headers": {"X-Version": "7"},
            "query": {"a b": "c"},
            "body": {"model": "m"},
            "phantoms": {"headers": ["X-Token"], "query": ["t"], "body": True},
            "rate_per_s": 5,
            "addresses": ["10.1.0.0/16", "fd00:1::/32"],
            "actors": ["agent", "tool-*", "session/*"],
        },
    )
    assert link.base_url == "https://api.example/v1"
    assert [(rule.method, rule.segments, rule.parameters) for rule in link.allow] == [
        ("POST", ("chat", "*"), None),
        ("*", ("files", "**"), None),
        ("GET", ("search",), frozenset({"q", "page"})),
        ("GET", ("",), None),
    ]
    assert link.auth == (
        Slot("header", "authorization", "Bearer ${secret:a}"),
        Slot("query", "k", "${secret:b}${secret:a}"),
    )
    assert link.secrets == {"a", "b"}
    assert link.headers == {"x-version": "7"}
    assert link.phantoms == PhantomSlots(frozenset({"x-token"}), frozenset({"t"}), True)
    assert link.addresses == (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00:1::/32"))
    assert link.rate_per_s == 5.0


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(LinkIssues) as refused:
        parse_link("a/b", {"base_ulr": 1, "allow": ["GET", "GET /x"], "total_timeout_s": "5s", "http2": "yes"})
    found = [(issue.path, issue.text) for issue in refused.value.issues]
    assert [path for path, _ in found] == [(), ("base_ulr",), (), ("allow", 0), ("total_timeout_s",), ("http2",)]
    assert "did you mean 'base_url'?" in found[1][1]
    assert "needs 'base_url'" in found[2][1]
    assert all(text in refused.value.message for _, text in found)


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"base_url": 1}, ("base_url",)),
        ({"base_url": "https://${secret:host}.example"}, ("base_url",)),
        ({"allow": []}, ("allow",)),
        ({"allow": "GET /"}, ("allow",)),
        ({"allow": ["GET /x", 1]}, ("allow", 1)),
        ({"allow": ["GET x"]}, ("allow", 0)),
        ({"allow": ["BREW /x"]}, ("allow", 0)),
        ({"allow": ["GET /x/../y"]}, ("allow", 0)),
        ({"allow": ["GET /**/x"]}, ("allow", 0)),
        ({"allow": ["GET /x*"]}, ("allow", 0)),
        ({"allow": ["GET /***"]}, ("allow", 0)),
        ({"auth": "Bearer x"}, ("auth",)),
        ({"auth": {"header": "x-key"}}, ("auth",)),
        ({"auth": {"header": "x", "query": "x", "value": "${secret:a}"}}, ("auth",)),
        ({"auth": {"header": "x-key", "value": "plain"}}, ("auth", "value")),
        ({"auth": {"header": "x-key", "value": "${secret:}"}}, ("auth", "value")),
        ({"auth": {"header": "x-key", "value": "${secret:a}${env:HOME}"}}, ("auth", "value")),
        ({"auth": {"header": "host", "value": "${secret:a}"}}, ("auth", "header")),
        ({"auth": {"header": "x y", "value": "${secret:a}"}}, ("auth", "header")),
        ({"auth": [{"header": "x-key", "value": "${secret:a}"}, 1]}, ("auth", 1)),
        ({"auth": [{"header": "x-key", "value": "${secret:a}"}] * 2}, ("auth",)),
        ({"auth": {"header": "x-key", "value": "${secret:a}"}, "headers": {"X-Key": "b"}}, ("auth",)),
        ({"auth": {"query": "k", "value": "${secret:a}"}, "query": {"k": "b"}}, ("auth",)),
        ({"auth": {"query": "k", "value": "${secret:a}"}, "base_url": "http://api.example"}, ("auth",)),
        ({"headers": {"x-key": "${secret:a}"}}, ("headers",)),
        ({"headers": {"host": "x"}}, ("headers",)),
        ({"headers": {"x": 1}}, ("headers", "x")),
        ({"headers": {"x": "a\r\nb: c"}}, ("headers",)),
        ({"query": {"k": "${secret:a}"}}, ("query",)),
        ({"body": {"k": ["${secret:a}"]}}, ("body",)),
        ({"body": {"k": float("nan")}}, ("body",)),
        ({"body": []}, ("body",)),
        ({"phantoms": {"header": []}}, ("phantoms",)),
        ({"phantoms": {"headers": "x"}}, ("phantoms",)),
        ({"connect_timeout_s": 0}, ("connect_timeout_s",)),
        ({"connect_timeout_s": -1}, ("connect_timeout_s",)),
        ({"connect_timeout_s": float("nan")}, ("connect_timeout_s",)),
        ({"connect_timeout_s": float("inf")}, ("connect_timeout_s",)),
        ({"connect_timeout_s": True}, ("connect_timeout_s",)),
        ({"request_bytes_max": -1}, ("request_bytes_max",)),
        ({"request_bytes_max": 1.5}, ("request_bytes_max",)),
        ({"retries_max": 21}, ("retries_max",)),
        ({"concurrent_max": 0}, ("concurrent_max",)),
        ({"backoff_initial_s": 20}, ("backoff_max_s",)),
        ({"rate_burst": 5}, ("rate_burst",)),
        ({"idempotency_header": "host"}, ("idempotency_header",)),
        ({"actors": ["a b"]}, ("actors", 0)),
        ({"actors": []}, ("actors",)),
        ({"tenants": ["a*"]}, ("tenants", 0)),
        ({"addresses": ["10.1.0.1/16"]}, ("addresses", 0)),
        ({"addresses": ["10.1.0.0/16", "::/0"]}, ("addresses", 1)),
        ({"addresses": ["0.0.0.0/0"]}, ("addresses", 0)),
        ({"addresses": ["localhost"]}, ("addresses", 0)),
        ({"redirects_max": 11}, ("redirects_max",)),
        ({"ca_file": ""}, ("ca_file",)),
        ({"verify": False}, ("verify",)),
    ],
)
def test_what_is_wrong_is_named_by_its_key(table: dict[str, Any], path: tuple[str | int, ...]) -> None:
    assert list(issues(**table)) == [path]


@pytest.mark.parametrize(("key", "low", "high"), [("retries_max", 0, 20), ("redirects_max", 0, 10)])
def test_whole_numbers_have_bounds(key: str, low: int, high: int) -> None:
    for value in (low, high):
        read(**{key: value})
    for value in (low - 1, high + 1):
        assert (key,) in issues(**{key: value})


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        ("GET /x", ["/x", "/x?a=1", "/%78"], ["/", "/x/", "/x/y", "/X", "/y"]),
        ("GET /x/*", ["/x/y", "/x/%2A", "/x/a%20b"], ["/x", "/x/", "/x/y/", "/x/y/z"]),
        ("GET /*/y", ["/x/y"], ["/y", "/x/y/z"]),
        ("GET /x/**", ["/x/y", "/x/y/z", "/x/"], ["/x", "/y/x/y", "/xy/z"]),
        ("GET /**", ["/", "/x", "/x/y"], []),
        ("GET /x?a&b", ["/x", "/x?a", "/x?a=1&b=2", "/x?%61=1", "/x?a&a"], ["/x?c", "/x?a&c", "/x?A=1", "/x?ab"]),
        ("GET /x?", ["/x", "/x?"], ["/x?a"]),
        ("GET /%2A", ["/*", "/%2a"], ["/x"]),
    ],
)
def test_a_rule_allows_what_it_says(rule: str, yes: list[str], no: list[str]) -> None:
    read_rule = parse_rule(rule)
    for path in yes:
        assert read_rule.allows("GET", canonical_target(path)), path
        assert not read_rule.allows("POST", canonical_target(path)), path
    for path in no:
        assert not read_rule.allows("GET", canonical_target(path)), path


def test_any_method_is_any() -> None:
    assert parse_rule("* /x").allows("DELETE", canonical_target("/x"))
    with pytest.raises(InvalidArgument):
        parse_rule("GET|POST /x")


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("agent", ["agent", "agent/one", "agent/../x"], ["agents", "my-agent", "one/agent"]),
        ("tool-*", ["tool-", "tool-a", "tool-a/key"], ["tool", "a/tool-b"]),
        ("*", ["a", "a/b"], []),
        ("agent/one", ["agent/one"], ["agent", "agent/one2", "agent/on"]),
        ("agent/user-*", ["agent/user-1", "agent/user-\n"], ["agent/1", "agent"]),
    ],
)
def test_patterns_of_actors(pattern: str, yes: list[str], no: list[str]) -> None:
    link = read(actors=[pattern])
    assert [actor for actor in yes + no if link.serves("acme", actor)] == yes
    assert not read(actors=["*"], tenants=["acme"]).serves("acme2", "agent")
