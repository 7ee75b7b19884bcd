"""TLS and client certificates at the HTTP door: who gets in, renewal, and limits of time and number under TLS."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.tls import Certificates
from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import TlsConfig
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.events import CertificateLoaded, CertificateRefused, ClientCertified, ClientRefused, Event
from tests.certificates import Authority, Signed
from tests.unit.api.memory_node import Served, assert_problem, serving

COUNTER = "/api/v1/actors/default/default/counter"
QUICK = HttpConfig(
    port=0, handshake_timeout_s=0.2, head_timeout_s=0.2, body_timeout_s=0.2, keep_alive_s=0.2, linger_s=0.2
)

# pytest-asyncio warns of its own successor to this fixture, which its older versions do not have.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:DeprecationWarning")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


class HandClock(SystemClock):
    """The machine's clock, and as much more as a test says has gone by."""

    def __init__(self) -> None:
        self.more_ns = 0

    def monotonic_ns(self) -> int:
        return super().monotonic_ns() + self.more_ns


class Door:
    """A server with TLS, and what it told."""

    def __init__(self, served: Served, certificates: Certificates, clock: HandClock, events: list[Event]) -> None:
        self.served = served
        self.certificates = certificates
        self.clock = clock
        self.events = events

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @contextlib.asynccontextmanager
    async def client(self, context: ssl.SSLContext) -> AsyncIterator[httpx.AsyncClient]:
        url = f"https://127.0.0.1:{self.served.server.port}"
        async with httpx.AsyncClient(base_url=url, headers=self.served.auth, verify=context, timeout=10) as client:
            yield client

    async def shown(self, authority: Authority) -> bytes:
        """The certificate that a new client is shown, in DER."""
        _, writer = await self.connect(authority.trust())
        try:
            found: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
            return found
        finally:
            writer.close()

    async def connect(self, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.served.server.port, ssl=context)

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not happened():
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def secured(
    authority: Authority, own: Signed, http: HttpConfig | None = None, **tls: Any
) -> AsyncIterator[Door]:
    events: list[Event] = []
    clock = HandClock()
    config = TlsConfig(cert_file=own.certificate, key_file=own.key, **tls)
    certificates = Certificates(config, clock, events.append)
    async with serving(config=http, tls=certificates, verify=authority.trust()) as served:
        yield Door(served, certificates, clock, events)


# -- talking -----------------------------------------------------------------------------------------------


async def test_everything_is_said_over_tls(authority: Authority) -> None:
    async with secured(authority, authority.server()) as door:
        http = door.served.http
        assert (await http.get(COUNTER)).json() == {"count": 0}
        asked = await http.post(f"{COUNTER}?wait=5", json={"op": "echo", "text": "x" * 3000})
        assert asked.json() == {"text": "x" * 3000}
        assert_problem(await http.get(COUNTER, headers={"authorization": ""}), 401, "unauthenticated")
        put = await http.put("/api/v1/blobs/default/large", content=b"b" * 3_000_000)
        assert put.status_code == 201
        assert (await http.get("/api/v1/blobs/default/large")).content == b"b" * 3_000_000
        assert door.served.server.connections == 1
        (loaded,) = door.told(CertificateLoaded)
        assert loaded.names == ("127.0.0.1", "localhost")
        assert loaded.days_left == 89


async def test_several_requests_in_the_first_record(authority: Authority) -> None:
    """What comes with the end of the handshake is not lost."""
    async with secured(authority, authority.server()) as door:
        reader, writer = await door.connect(authority.trust())
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
        for _ in range(3):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readexactly(len(b'{"status":"ok"}'))
        writer.close()


async def test_a_request_that_comes_with_the_last_of_the_handshake(authority: Authority) -> None:
    """TLS 1.3: a client that sends its Finished and its request in one packet."""
    async with secured(authority, authority.server()) as door:
        loop = asyncio.get_running_loop()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = authority.trust().wrap_bio(incoming, outgoing, server_hostname="localhost")
        sock = socket.create_connection(("127.0.0.1", door.served.server.port))
        sock.setblocking(False)
        with sock:
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await loop.sock_sendall(sock, outgoing.read())
                    incoming.write(await loop.sock_recv(sock, 65536))
            client.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            await loop.sock_sendall(sock, outgoing.read())
            answer = b""
            async with asyncio.timeout(10):
                while b'{"status":"ok"}' not in answer:
                    incoming.write(await loop.sock_recv(sock, 65536))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        answer += client.read(65536)
            assert answer.startswith(b"HTTP/1.1 200")


async def test_http_1_1_is_agreed_on(authority: Authority) -> None:
    async with secured(authority, authority.server()) as door:
        context = authority.trust()
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await door.connect(context)
        secured_by = writer.get_extra_info("ssl_object")
        assert secured_by.selected_alpn_protocol() == "http/1.1"
        assert secured_by.version() == "TLSv1.3"
        writer.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
@pytest.mark.parametrize(("version", "is_spoken"), [("TLSv1_1", False), ("TLSv1_2", True)])
async def test_old_versions(authority: Authority, version: str, is_spoken: bool) -> None:
    async with secured(authority, authority.server()) as door:
        context = authority.trust()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        if is_spoken:
            _, writer = await door.connect(context)
            writer.close()
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await door.connect(context)
        assert (await door.served.http.get("/healthz")).status_code == 200


async def test_plaintext_is_not_answered(authority: Authority) -> None:
    async with secured(authority, authority.server()) as door:
        heard = await door.served.raw(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"HTTP" not in heard
        await door.until(lambda: door.served.server.connections == 0)
        assert (await door.served.http.get("/healthz")).status_code == 200


# -- limits ------------------------------------------------------------------------------------------------


async def test_a_client_that_never_shakes_hands_is_counted_and_closed(authority: Authority) -> None:
    async with secured(authority, authority.server(), QUICK) as door:
        reader, writer = await door.served.connect()
        await door.until(lambda: door.served.server.connections == 1)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        await door.until(lambda: door.served.server.connections == 0)
        writer.close()


async def test_a_handshake_that_drips_is_closed(authority: Authority) -> None:
    async with secured(authority, authority.server(), QUICK) as door:
        reader, writer = await door.served.connect()
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                # The head of a record that promises more than comes.
                for byte in b"\x16\x03\x01\x01\x00\x01" + bytes(200):
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.01)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        await door.until(lambda: door.served.server.connections == 0)
        writer.close()


async def test_connections_beyond_the_limit_are_closed_also_before_the_handshake(authority: Authority) -> None:
    config = HttpConfig(port=0, connections_max=2)
    async with secured(authority, authority.server(), config) as door:
        silent = [await door.served.connect() for _ in range(2)]
        await door.until(lambda: door.served.server.connections == 2)
        reader, writer = await door.served.connect()
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        assert door.served.server.connections == 2
        for _, other in (*silent, (reader, writer)):
            other.close()
        await door.until(lambda: door.served.server.connections == 0)
        assert (await door.served.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET /healthz HTTP/1.1\r\n", b"HTTP/1.1 408"),
        (b"POST /api/v1/streams/a HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n", b"HTTP/1.1 4"),
        (b"", b""),
    ],
    ids=["head", "body", "nothing"],
)
async def test_times_are_kept_over_tls(authority: Authority, sent: bytes, answer: bytes) -> None:
    async with secured(authority, authority.server(), QUICK) as door:
        reader, writer = await door.connect(authority.trust())
        writer.write(sent)
        async with asyncio.timeout(10):
            heard = await reader.read()
        assert heard.startswith(answer)
        await door.until(lambda: door.served.server.connections == 0)
        writer.close()


async def test_a_head_that_is_too_large_over_tls(authority: Authority) -> None:
    async with secured(authority, authority.server()) as door:
        reader, writer = await door.connect(authority.trust())
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 200_000)
        async with asyncio.timeout(10):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 431")
        writer.close()


async def test_a_server_stops_while_hands_are_shaken(authority: Authority) -> None:
    async with secured(authority, authority.server()) as door:
        reader, writer = await door.served.connect()
        await door.until(lambda: door.served.server.connections == 1)
        async with asyncio.timeout(10):
            await door.served.server.stop(5.0)
            assert await reader.read() == b""
        writer.close()


# -- clients' certificates ---------------------------------------------------------------------------------


async def test_a_certificate_that_is_required(authority: Authority, tmp_path: Path) -> None:
    required = {"client_auth": "required", "client_ca_file": authority.root}
    async with secured(authority, authority.server(), **required) as door:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await door.served.http.get(COUNTER)
        stranger = Authority(tmp_path / "other", "stranger").sign("ada", client=True)
        async with door.client(authority.trust(stranger)) as http:
            with pytest.raises(httpx.TransportError):
                await http.get(COUNTER)
        server_only = authority.sign("ada", file="server-only")
        async with door.client(authority.trust(server_only)) as http:
            with pytest.raises(httpx.TransportError):
                await http.get(COUNTER)
        expired = authority.sign("ada", client=True, days=-1, file="expired")
        async with door.client(authority.trust(expired)) as http:
            with pytest.raises(httpx.TransportError):
                await http.get(COUNTER)
        assert door.told(ClientCertified) == []
        ada = authority.sign("ada", client=True)
        async with door.client(authority.trust(ada)) as http:
            assert (await http.get(COUNTER)).json() == {"count": 0}
            # It says who connects, not who calls.
            assert_problem(await http.get(COUNTER, headers={"authorization": ""}), 401, "unauthenticated")
        (certified,) = door.told(ClientCertified)
        assert (certified.door, certified.subject, certified.names) == ("http", "CN=ada", ("ada",))
        assert certified.peer.startswith("127.0.0.1:")


async def test_a_certificate_that_is_optional(authority: Authority) -> None:
    optional = {"client_auth": "optional", "client_ca_file": authority.root}
    async with secured(authority, authority.server(), **optional) as door:
        assert (await door.served.http.get(COUNTER)).status_code == 200
        assert door.told(ClientCertified) == []
        async with door.client(authority.trust(authority.sign("ada", client=True))) as http:
            assert (await http.get(COUNTER)).status_code == 200
        assert [each.subject for each in door.told(ClientCertified)] == ["CN=ada"]


@pytest.mark.parametrize(
    ("client", "is_wanted"),
    [
        ({"name": "ada"}, True),
        ({"name": "eve"}, False),
        ({"name": "eve", "dns": ("proxy.example.com",)}, True),
        ({"name": "eve", "uris": ("spiffe://example.com/proxy",)}, True),
        ({"name": "eve", "dns": ("evil-proxy.example.com",)}, False),
        ({"name": "eve,CN=ada"}, False),
    ],
)
async def test_names_that_are_wanted(authority: Authority, client: dict[str, Any], is_wanted: bool) -> None:
    wanted = ("ada", "proxy.example.com", "spiffe://example.com/proxy")
    required = {"client_auth": "required", "client_ca_file": authority.root, "client_names": wanted}
    async with (
        secured(authority, authority.server(), **required) as door,
        door.client(authority.trust(authority.sign(**client, client=True, file="client"))) as http,
    ):
        if is_wanted:
            assert (await http.get(COUNTER)).status_code == 200
            assert len(door.told(ClientCertified)) == 1
        else:
            assert_problem(await http.get(COUNTER), 403, "permission-denied")
            assert len(door.told(ClientRefused)) == 1
            assert door.told(ClientCertified) == []


# -- renewal -----------------------------------------------------------------------------------------------


def replace(old: Signed, new: Signed) -> None:
    shutil.copy(new.certificate, old.certificate)
    shutil.copy(new.key, old.key)


async def test_a_renewed_certificate_is_served_without_a_signal(authority: Authority) -> None:
    own = authority.server()
    async with secured(authority, own) as door:
        before = await door.shown(authority)
        reader, writer = await door.connect(authority.trust())
        replace(own, authority.server("renewed"))
        door.clock.more_ns += 2_000_000_000
        after = await door.shown(authority)
        assert after != before
        assert after == own.leaf.public_bytes(_der())
        assert len(door.told(CertificateLoaded)) == 2
        # Whoever was there is there.
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_files_are_looked_at_once_a_second_or_at_once_if_told(authority: Authority) -> None:
    own = authority.server()
    async with secured(authority, own) as door:
        before = await door.shown(authority)
        replace(own, authority.server("renewed"))
        assert await door.shown(authority) == before
        assert door.certificates.refresh(at_once=True)
        assert await door.shown(authority) != before


async def test_half_a_renewal_changes_nothing(authority: Authority) -> None:
    own = authority.server()
    async with secured(authority, own) as door:
        before = await door.shown(authority)
        new = authority.server("renewed")
        shutil.copy(new.certificate, own.certificate)
        for _ in range(3):
            door.clock.more_ns += 2_000_000_000
            assert await door.shown(authority) == before
        (refused,) = door.told(CertificateRefused)
        assert "is not the key of the first certificate" in refused.message
        shutil.copy(new.key, own.key)
        door.clock.more_ns += 2_000_000_000
        assert await door.shown(authority) == new.leaf.public_bytes(_der())


async def test_files_that_go_away_change_nothing(authority: Authority) -> None:
    own = authority.server()
    async with secured(authority, own) as door:
        before = await door.shown(authority)
        own.key.unlink()
        door.clock.more_ns += 2_000_000_000
        assert await door.shown(authority) == before
        assert "cannot be read" in door.told(CertificateRefused)[0].message


async def test_another_authority_for_clients_takes_effect(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other")
    roots = tmp_path / "clients.pem"
    shutil.copy(authority.root, roots)
    ada, eve = authority.sign("ada", client=True), other.sign("eve", client=True)
    async with secured(authority, authority.server(), client_auth="required", client_ca_file=roots) as door:
        async with door.client(authority.trust(ada)) as http:
            assert (await http.get(COUNTER)).status_code == 200
        shutil.copy(other.root, roots)
        door.clock.more_ns += 2_000_000_000
        async with door.client(authority.trust(eve)) as http:
            assert (await http.get(COUNTER)).status_code == 200
        async with door.client(authority.trust(ada)) as http:
            with pytest.raises(httpx.TransportError):
                await http.get(COUNTER)


# -- files that cannot be used -----------------------------------------------------------------------------


def test_a_key_that_others_can_read(authority: Authority) -> None:
    own = authority.server()
    own.key.chmod(0o640)
    with pytest.raises(InvalidArgument, match="chmod 0600"):
        Certificates(TlsConfig(cert_file=own.certificate, key_file=own.key), SystemClock())


def test_a_link_is_followed_to_what_it_leads_to(authority: Authority, tmp_path: Path) -> None:
    own = authority.server()
    link = tmp_path / "live.key"
    link.symlink_to(own.key)
    Certificates(TlsConfig(cert_file=own.certificate, key_file=link), SystemClock())
    own.key.chmod(0o644)
    with pytest.raises(InvalidArgument, match="chmod 0600"):
        Certificates(TlsConfig(cert_file=own.certificate, key_file=link), SystemClock())


def test_files_that_are_not_what_they_should_be(authority: Authority, tmp_path: Path) -> None:
    own = authority.server()
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    nonsense.chmod(0o600)
    other = authority.server("other")
    for certificate, key, said in [
        (tmp_path / "missing.pem", own.key, "cannot be read"),
        (nonsense, own.key, "no certificate in PEM"),
        (own.certificate, nonsense, "no private key in PEM"),
        (own.certificate, other.key, "is not the key of the first certificate"),
    ]:
        with pytest.raises(InvalidArgument, match=said):
            Certificates(TlsConfig(cert_file=certificate, key_file=key), SystemClock())
    with pytest.raises(InvalidArgument, match="no certificate in PEM"):
        Certificates(
            TlsConfig(cert_file=own.certificate, key_file=own.key, client_auth="required", client_ca_file=nonsense),
            SystemClock(),
        )


def test_a_passphrase_is_not_asked_for(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    own = authority.server()
    key = serialization.load_pem_private_key(own.key.read_bytes(), None)
    own.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    )
    with pytest.raises(InvalidArgument, match="passphrase"):
        Certificates(TlsConfig(cert_file=own.certificate, key_file=own.key), SystemClock())


def _der() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER
