"""Ways to make the node reach what it must not: every spelling of a forbidden address, host or path is refused.

A socket listens where each would lead, and counts: refused means that nobody came.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from plexspaces_runtime.egress.links import LinkIssues, parse_link
from plexspaces_runtime.egress.model import Request
from plexspaces_runtime.errors import InvalidArgument, LimitExceeded, PermissionDenied, PlexSpacesError, Unavailable
from plexspaces_runtime.events import EgressRefused
from plexspaces_runtime.scope import Scope
from tests.unit.egress.stage import CALL, LOOPBACK, Peer, answer, egress, listening, saying


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with listening(saying(answer(b"inside"))) as inside:
        yield inside


# -- hosts, as an operator or whoever deploys may write them --------------------------------------------------

HOSTS = [
    # Loopback.
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0X7F000001",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "0x7f.0.0.1",
    "0x7f.1",
    "127.0x0.0.1",
    "127.0.0.0x",
    "00000177.0.0.1",
    "１２７.0.0.1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "127．0．0．1",
    "0",
    "0.0.0.0",
    "0x0",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:7F00:0001]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::127.0.0.1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[2001::80ff:fffe]",
    # Private networks.
    "10.0.0.1",
    "10.1",
    "167772161",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.1",
    "0xc0a80001",
    "[::ffff:10.0.0.1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[fec0::1]",
    "[2002:c0a8:1::1]",
    "[2606:4700::5efe:10.0.0.1]",
    "[2606:4700::200:5efe:10.0.0.1]",
    "100.64.0.1",
    "100.127.255.255",
    # Clouds' metadata.
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    # Everything else that is no public host.
    "169.254.0.1",
    "[fe80::1]",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "4294967295",
    "[ff02::1]",
    "[100::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[4000::1]",
    "[::2]",
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_link_to_a_forbidden_address_is_refused_when_it_is_read(host: str) -> None:
    with pytest.raises(LinkIssues) as refused:
        parse_link("api", {"base_url": f"https://{host}/", "allow": ["GET /**"]})
    (issue,) = refused.value.issues
    assert issue.path == ("base_url",)
    assert "address" in issue.text


@pytest.mark.parametrize("host", HOSTS)
async def test_the_node_refuses_it_whatever_a_link_names(host: str, peer: Peer) -> None:
    """A tenant's own configuration is not enough."""
    everything = [f"{first}.0.0.0/8" for first in range(256)] + ["::/1", "8000::/1"]
    for permitted in ([], [ipaddress.ip_network("192.0.3.0/24")]):
        async with egress(permitted=permitted) as stage:
            stage.link(f"http://{host}:{peer.port}", addresses=everything, retries_max=0)
            with pytest.raises(PermissionDenied) as refused:
                await stage.get()
            assert "egress.permitted" in refused.value.message
            assert len(stage.events(EgressRefused)) == 1
    assert peer.connections == 0


@pytest.mark.parametrize("host", HOSTS)
async def test_a_name_with_that_address_is_refused(host: str, peer: Peer) -> None:
    """The name server's answer is no better than the configuration, and one good address excuses no other."""
    address = parse_link(
        "api",
        {
            "base_url": f"http://{host}",
            "allow": ["GET /"],
            "addresses": [f"{first}.0.0.0/8" for first in range(256)] + ["::/1", "8000::/1"],
        },
    ).base.host

    answers = [[address], ["93.184.215.14", address], [address, "93.184.215.14"]]

    async def resolve(_host: str, _port: int) -> list[str]:
        return answers[-1]

    async with egress(permitted=LOOPBACK, resolve=resolve) as stage:
        stage.link(f"http://service.example:{peer.port}", addresses=None, retries_max=0)
        while answers:
            with pytest.raises(PermissionDenied) as refused:
                await stage.get()
            answers.pop()
            # What it is, not where: the inside's addresses are nobody's business.
            assert address not in refused.value.message
            assert address in stage.events(EgressRefused)[-1].reason
    assert peer.connections == 0


async def test_both_the_link_and_the_node_must_name_the_range(peer: Peer) -> None:
    for named, permitted, reached in [
        (["127.0.0.0/8"], ["127.0.0.0/8"], True),
        (["127.0.0.1/32"], ["127.0.0.0/8"], True),
        (["127.0.0.0/8"], ["10.0.0.0/8"], False),
        (["127.0.0.0/8"], [], False),
        (["10.0.0.0/8"], ["127.0.0.0/8"], False),
        (None, ["127.0.0.0/8"], False),
    ]:

        async def resolve(_host: str, _port: int) -> list[str]:
            return ["127.0.0.1"]

        before = peer.connections
        async with egress(permitted=[ipaddress.ip_network(each) for each in permitted], resolve=resolve) as stage:
            stage.link(f"http://service.example:{peer.port}", addresses=named, retries_max=0)
            if reached:
                assert (await stage.get()).body == b"inside"
            else:
                with pytest.raises(PermissionDenied):
                    await stage.get()
        assert peer.connections - before == reached


# -- answers of the name server that change ----------------------------------------------------------------


async def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(peer: Peer) -> None:
    """Each further answer would lead inside, and is never asked for."""
    asked: list[str] = []

    async def rebinding(host: str, _port: int) -> list[str]:
        asked.append(host)
        # Nobody listens at the first one, which is fine by the link.
        return ["127.0.0.2"] if len(asked) == 1 else ["127.0.0.1"]

    async with egress(permitted=LOOPBACK, resolve=rebinding) as stage:
        stage.link(
            f"http://service.example:{peer.port}", addresses=["127.0.0.2/32"], retries_max=0, breaker_failures=100
        )
        with pytest.raises(Unavailable):
            await stage.get()
        assert asked == ["service.example"]
        # Asked again, for another request, it is checked again.
        with pytest.raises(PermissionDenied):
            await stage.get()
        assert asked == ["service.example"] * 2
    assert peer.connections == 0


async def test_every_retry_checks_again(peer: Peer) -> None:
    answers = [["127.0.0.2"], ["127.0.0.1"]]

    async def rebinding(_host: str, _port: int) -> list[str]:
        return answers.pop(0)

    async with egress(permitted=LOOPBACK, resolve=rebinding) as stage:
        stage.link(f"http://service.example:{peer.port}", addresses=["127.0.0.2/32"])
        with pytest.raises(PermissionDenied):
            await stage.get()
    assert (answers, peer.connections) == ([], 0)


@pytest.mark.parametrize(
    "found",
    [
        [],
        ["nonsense"],
        ["127.0.0.1 "],
        [""],
        ["localhost"],
        ["service.example"],
        ["127.1"],
        ["2130706433"],
        ["127.0.0.1:80"],
    ],
)
async def test_a_name_servers_nonsense_leads_nowhere(found: list[str], peer: Peer) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return found

    async with egress(resolve=resolve) as stage:
        stage.link(f"http://service.example:{peer.port}", retries_max=0)
        with pytest.raises(Unavailable):
            await stage.get()
    assert peer.connections == 0


async def test_names_of_this_machine_are_resolved_and_refused(peer: Peer) -> None:
    async with egress(permitted=()) as stage:
        for host in ("localhost", "LOCALHOST", "localhost."):
            stage.link(f"http://{host}:{peer.port}", retries_max=0)
            with pytest.raises(PermissionDenied):
                await stage.get()
    assert peer.connections == 0


# -- proxies -----------------------------------------------------------------------------------------------


async def test_no_proxy_of_the_environment_is_asked(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{peer.port}")

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.2"]

    async with egress(resolve=resolve) as stage:
        stage.link("http://service.example:9", retries_max=0)
        with pytest.raises(Unavailable):
            await stage.get()
    assert peer.connections == 0


# -- base URLs that are none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.example",
        "//api.example",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://api.example",
        "gopher://api.example",
        "unix:///run/docker.sock",
        "http+unix://%2Frun%2Fdocker.sock",
        "https://",
        "https:///path",
        "https:api.example",
        "https:\\\\api.example",
        "https://user@api.example",
        "https://user:pass@api.example",
        "https://api.example@127.0.0.1",
        "https://api.example:443@127.0.0.1",
        "https://api.example\\@127.0.0.1",
        "https://127.0.0.1\\.api.example",
        "https://127.0.0.1#.api.example",
        "https://127.0.0.1?.api.example",
        "https://api.example/?query",
        "https://api.example/#fragment",
        "https://api.example/../x",
        "https://api.example//",
        "https://api.example/%2e%2e/x",
        "https://api.example:0",
        "https://api.example:65536",
        "https://api.example:-1",
        "https://api.example:80:80",
        "https://api.example:８０",
        "https://api.example: 80",
        "https://api .example",
        "https://api\t.example",
        "https://api\n.example",
        "https://api\x00.example",
        "https://api%2eexample",
        "https://127.0.0.1%00.example",
        "https://127.0.0.1%2f.example",
        "https://api..example",
        "https://.example",
        "https://-api.example",
        "https://[::1",
        "https://::1",
        "https://[::1]x",
        "https://[fe80::1%25eth0]",
        "https://[fe80::1%eth0]",
        "https://[v1.x]",
        "https://[127.0.0.1]",
        "https://256.0.0.1",
        "https://1.2.3.4.5",
        "https://08.0.0.1",
        "https://0x100000000",
        "https://api.example/a b\r\nx: y",
        "https://" + "a" * 64 + ".example",
        "https://" + "a." * 130 + "example",
        "https://*.example",
        "https://${secret:host}",
    ],
)
def test_a_base_url_that_has_two_readings_is_none(base_url: str) -> None:
    with pytest.raises(LinkIssues) as refused:
        parse_link("api", {"base_url": base_url, "allow": ["GET /**"], "addresses": ["127.0.0.0/8"]})
    assert {issue.path for issue in refused.value.issues} == {("base_url",)}


# -- paths from guests -------------------------------------------------------------------------------------

PATHS = [
    "",
    "v1/items",
    "http://169.254.169.254/",
    "https://127.0.0.1/v1/items",
    "HTTP://127.0.0.1/",
    "//127.0.0.1/v1/items",
    "///127.0.0.1/",
    "/\\127.0.0.1/",
    "\\\\127.0.0.1\\",
    "\\/127.0.0.1/",
    "@127.0.0.1/",
    ":@127.0.0.1/",
    ":80/",
    ".127.0.0.1/",
    "?@127.0.0.1/",
    "#@127.0.0.1/",
    " /v1/items",
    "\t/v1/items",
    "\n//127.0.0.1/",
    "/v1/../admin",
    "/v1/items/../../admin",
    "/v1/./items",
    "/..",
    "/../../etc/passwd",
    "/v1/..",
    "/v1/%2e%2e/admin",
    "/v1/%2E%2e/admin",
    "/v1/.%2e/admin",
    "/v1/%2e./admin",
    "/v1/..;/admin",
    "/v1/..;x=1/admin",
    "/v1/%2e%2e;/admin",
    "/v1/.;/items",
    "/v1/;/admin",
    "/v1/;x=1/items",
    "/v1/.../items",
    "/v1/.. /admin",
    "/v1/..%20/admin",
    "/v1//admin",
    "/v1/items//",
    "/v1/..%2fadmin",
    "/v1/..%2Fadmin",
    "/v1%2f..%2fadmin",
    "/v1/items%2f..%2f..%2fadmin",
    "/v1/%5c..%5cadmin",
    "/v1/..\\admin",
    "/v1/..%5Cadmin",
    "/v1\\items",
    "/v1/%252e%252e/admin",
    "/v1/..%252fadmin",
    "/v1/%25252e%25252e/admin",
    "/v1/%25%32%65%25%32%65/admin",
    "/v1/%c0%ae%c0%ae/admin",
    "/v1/..%c0%afadmin",
    "/v1/%e0%80%af../admin",
    "/v1/%ff",
    "/v1/%u002e%u002e/admin",
    "/v1/．．/admin",
    "/v1/%EF%BC%8E%EF%BC%8E/admin",
    "/v1/․․/admin",
    "/v1/..／admin",
    "/v1/%EF%BC%8F..",
    "/v1/‥/admin",
    "/v1/items％2f..",
    "/v1/..\u200b/admin",
    "/v1/\u202e/admin",
    "/v1/items%00.json",
    "/v1/items\x00",
    "/v1/items%0d%0aHost:%20evil",
    "/v1/items\r\nHost: evil",
    "/v1/items HTTP/1.1\r\nHost: evil\r\n\r\nGET /admin",
    "/v1/items%7f",
    "/v1/items%85",
    "/v1/items\u2028",
    "/v1/items%E2%80%A8",
    "/v1/%",
    "/v1/%2",
    "/v1/%zz",
    "/v1/items#/admin",
    "/v1/items?x=1#y",
    "/v1/items?x=%00",
    "/v1/items?x=\r\nHost: evil",
    "/v1/items?x=%",
    "/v1/\ud800",
    "/" + "a" * 10_000,
]

# In their form, and not what is allowed.
OTHER_PATHS = [
    "/admin",
    "/",
    "/v1",
    "/v1/",
    "/v1/ITEMS",
    "/V1/items",
    "/v1/items/",
    "/v1/items;x=1",
    "/v1/items%3Bx=1",
    "/v1/items*",
    "/v1/items%20",
    "/v1/items.",
    "/v1/items/*",
    "/*",
]


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_that_is_another_than_it_looks_goes_nowhere(path: str, peer: Peer) -> None:
    """Not even where everything is allowed."""
    async with egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", allow=["GET /**"])
        with pytest.raises((InvalidArgument, LimitExceeded)):
            await stage.get(path)
    assert peer.connections == 0


@pytest.mark.parametrize("path", OTHER_PATHS)
async def test_a_path_that_only_looks_like_an_allowed_one_is_not_allowed(path: str, peer: Peer) -> None:
    async with egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", allow=["GET /v1/items", "GET /v1/things/*"])
        with pytest.raises(PermissionDenied):
            await stage.get(path)
    assert peer.connections == 0


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/items", "/v1/items"),
        ("/%76%31/%69tems", "/v1/items"),
        ("/v1/items?a=http://127.0.0.1/&b=../..", "/v1/items?a=http://127.0.0.1/&b=../.."),
        ("/v1/things/@127.0.0.1", "/v1/things/@127.0.0.1"),
        ("/v1/things/a%20b", "/v1/things/a%20b"),
        ("/v1/things/a b", "/v1/things/a%20b"),
        ("/v1/things/é", "/v1/things/%C3%A9"),
        ("/v1/things/%c3%a9", "/v1/things/%C3%A9"),
        ("/v1/things/..a/b..", "/v1/things/..a/b.."),
        ("/v1/things/100%25", "/v1/things/100%25"),
        ("/v1/things/*", "/v1/things/%2A"),
        ("/v1/things/x?a;b=1&a=%0a&&c", "/v1/things/x?a%3Bb=1&a=%0A&c"),
        ("/v1/items?", "/v1/items"),
    ],
)
async def test_a_path_arrives_in_its_only_form(path: str, target: str, peer: Peer) -> None:
    async with egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", allow=["GET /v1/items", "GET /v1/things/**"])
        await stage.get(path)
        assert peer.heard[0].target == target
        assert peer.heard[0].headers["host"] == f"127.0.0.1:{peer.port}"


@pytest.mark.parametrize(
    "method",
    [
        "",
        "CONNECT",
        "TRACE",
        "TRACK",
        "GET ",
        " GET",
        "GET\r\n",
        "GET /admin HTTP/1.1\r\n\r\nGET",
        "POST",
        "PRI",
        "ＧＥＴ",
        "geſt",
        "*",
    ],
)
async def test_a_method_is_one_of_those_there_are(method: str, peer: Peer) -> None:
    async with egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", allow=["GET /**"])
        with pytest.raises((InvalidArgument, PermissionDenied)):
            await stage.egress.fetch(CALL, Request("api", method, "/"))
        assert peer.connections == 0
        assert (await stage.egress.fetch(CALL, Request("api", "get", "/"))).status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "169.254.169.254"),
        ("HOST", "evil"),
        ("host ", "evil"),
        (" host", "evil"),
        ("Connection", "close"),
        ("Connection", "x-key"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("transfer_encoding", "chunked"),
        ("Content-Length", "0"),
        ("Content_Length", "0"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ("Expect", "100-continue"),
        ("Proxy-Authorization", "Basic eA=="),
        ("Proxy-Connection", "close"),
        ("proxy_connection", "close"),
        ("Cookie", "a=b"),
        ("Cookie2", "a=b"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Method-Override", "DELETE"),
        ("x_http_method", "DELETE"),
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("x-key", "mine"),
        ("X_Key", "mine"),
        (":authority", "evil"),
        (":path", "/admin"),
        ("", "x"),
        ("x y", "z"),
        ("x:y", "z"),
        ("x\r\ny", "z"),
        ("x-é", "z"),
        ("x-a", "b\r\nhost: evil"),
        ("x-a", "b\nhost: evil"),
        ("x-a", "b\rhost: evil"),
        ("x-a", "b\x00c"),
        ("x-a", "bĊhost: evil"),
        ("x-a", "é"),
        ("x-a", "\x7f"),
        ("x-a", "\ud800"),
        ("x-a", "b" * 40_000),
    ],
)
async def test_a_header_that_says_where_or_how_a_request_goes_is_refused(name: str, value: str, peer: Peer) -> None:
    async with egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", auth={"header": "X-Key", "value": "${secret:key}"})
        stage.secrets.secrets["key"] = "real"
        with pytest.raises((InvalidArgument, LimitExceeded)):
            await stage.get(headers={name: value})
        assert peer.connections == 0
        await stage.get(headers={"x-mine": "a"})
        assert "connection" not in peer.heard[0].headers


async def test_two_spellings_of_one_header_are_refused(peer: Peer) -> None:
    async with egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        with pytest.raises(InvalidArgument):
            await stage.get(headers={"X-A": "1", "x-a": "2"})
        with pytest.raises(LimitExceeded):
            await stage.get(headers={f"x-{at}": "" for at in range(65)})
    assert peer.connections == 0


# -- other people's links ----------------------------------------------------------------------------------


async def test_a_link_of_another_namespace_does_not_exist(peer: Peer) -> None:
    async with egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        for scope in (("other", "default"), ("acme", "other"), ("ACME", "default"), ("", "")):
            with pytest.raises(PlexSpacesError) as refused:
                await stage.egress.fetch(replace(CALL, scope=Scope(*scope)), Request("api", "GET", "/"))
            assert refused.value.code == "not-found"
        for name in ("API", "api ", "../api", "api\x00", ""):
            with pytest.raises(PlexSpacesError):
                await stage.egress.fetch(CALL, Request(name, "GET", "/"))
    assert peer.connections == 0


def test_the_tables_are_as_long_as_they_claim() -> None:
    assert len(set(HOSTS)) >= 60
    assert len(set(PATHS)) >= 60


async def test_what_waits_for_a_name_server_holds_up_nobody_else(peer: Peer) -> None:
    async def resolve(host: str, _port: int) -> list[str]:
        if host == "slow.example":
            await asyncio.Event().wait()
        return ["127.0.0.1"]

    async with egress(resolve=resolve) as stage:
        stage.link("http://slow.example", application="slow", name="slow", connect_timeout_s=0.2, retries_max=0)
        stage.link(f"http://fast.example:{peer.port}")
        slow = asyncio.create_task(stage.egress.fetch(CALL, Request("slow", "GET", "/")))
        assert (await stage.get()).body == b"inside"
        with pytest.raises(Unavailable):
            await slow
