"""The node's own key and token on disk."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.errors import InvalidArgument, Unauthenticated


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_first_start_makes_a_key_and_a_token(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    authority = LocalAuthority.open(data)
    assert (mode(data), mode(data / "keys")) == (0o700, 0o700)
    assert (mode(data / "keys" / "signing.key"), mode(data / "token")) == (0o600, 0o600)
    assert len(bytes.fromhex((data / "keys" / "signing.key").read_text())) == 32
    assert (data / "token").read_text() == authority.token + "\n"
    principal = await Authenticator(authority).verify(b"Bearer " + authority.token.encode())
    assert (principal.tenant, principal.subject, principal.roles) == ("default", "local", frozenset({"admin"}))
    assert sorted(p.name for p in data.rglob("*")) == ["keys", "signing.key", "token"]


def test_the_next_start_takes_the_same(tmp_path: Path) -> None:
    first = LocalAuthority.open(tmp_path)
    second = LocalAuthority.open(tmp_path)
    assert (first.kid, first.token) == (second.kid, second.token)


def test_starts_at_the_same_time_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        authorities = list(pool.map(lambda _: LocalAuthority.open(tmp_path), range(32)))
    assert len({authority.kid for authority in authorities}) == 1
    token = (tmp_path / "token").read_text().strip()
    assert authorities[0].claims(token)["sub"] == "local"


def test_a_token_near_its_end_is_renewed(tmp_path: Path) -> None:
    clock = ManualClock()
    first = LocalAuthority.open(tmp_path, clock=clock)
    clock.advance(334 * 86_400)
    assert LocalAuthority.open(tmp_path, clock=clock).token == first.token
    clock.advance(86_400)
    assert LocalAuthority.open(tmp_path, clock=clock).token != first.token


@pytest.mark.parametrize("content", ["", "x.y.z", "garbage\n"])
def test_a_spoilt_token_is_replaced(tmp_path: Path, content: str) -> None:
    LocalAuthority.open(tmp_path)
    (tmp_path / "token").write_text(content)
    authority = LocalAuthority.open(tmp_path)
    assert authority.claims((tmp_path / "token").read_text().strip())["tenant"] == "default"


def test_another_tenant_gets_another_token(tmp_path: Path) -> None:
    LocalAuthority.open(tmp_path)
    authority = LocalAuthority.open(tmp_path, tenant="acme")
    assert authority.claims(authority.token)["tenant"] == "acme"


@pytest.mark.parametrize("name", ["keys", "keys/signing.key", "token"])
@pytest.mark.parametrize("bits", [0o040, 0o004, 0o020, 0o001])
def test_what_others_can_read_is_refused(tmp_path: Path, name: str, bits: int) -> None:
    LocalAuthority.open(tmp_path)
    path = tmp_path / name
    path.chmod(mode(path) | bits)
    with pytest.raises(InvalidArgument, match=r"chmod 0[67]00") as caught:
        LocalAuthority.open(tmp_path)
    assert str(path) in caught.value.message


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    LocalAuthority.open(tmp_path)
    key = tmp_path / "keys" / "signing.key"
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        LocalAuthority.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"ab" * 31, b"zz" * 32, b"\xff" * 64])
def test_a_spoilt_key_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    LocalAuthority.open(tmp_path)
    key = tmp_path / "keys" / "signing.key"
    key.write_bytes(content)
    with pytest.raises(InvalidArgument):
        LocalAuthority.open(tmp_path)
    assert key.read_bytes() == content


@pytest.mark.parametrize(
    ("tenant", "subject", "ttl_s", "namespaces"),
    [
        ("", "ada", 60, None),
        ("a/b", "ada", 60, None),
        ("acme", "", 60, None),
        ("acme", "ada", 0, None),
        ("acme", "ada", 60, ["-"]),
    ],
)
def test_a_token_that_would_not_be_believed_is_not_minted(
    tenant: str, subject: str, ttl_s: float, namespaces: list[str] | None
) -> None:
    with pytest.raises(InvalidArgument):
        LocalAuthority(b"k" * 32).mint(tenant, subject, [], ttl_s, namespaces=namespaces)


def test_a_short_key_is_none() -> None:
    with pytest.raises(InvalidArgument, match="32 bytes"):
        LocalAuthority(b"k" * 31)


async def test_a_token_of_another_node(tmp_path: Path) -> None:
    one, two = LocalAuthority.open(tmp_path / "one"), LocalAuthority.open(tmp_path / "two")
    with pytest.raises(Unauthenticated):
        await Authenticator(one).verify(b"Bearer " + two.token.encode())
