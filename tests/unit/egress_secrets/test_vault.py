"""The vault: values go in sealed, tokens stand for them, and neither rows nor keys can be swapped."""

from __future__ import annotations

import pytest

from plexspaces_runtime.config import Limits
from plexspaces_runtime.egress.keys import Broken, Keys, MasterKey, bound, seal, unseal
from plexspaces_runtime.egress.vault import Vault
from plexspaces_runtime.errors import Conflict, InvalidArgument, LimitExceeded, NotFound, Unavailable
from plexspaces_runtime.events import CredentialRegistered, SecretRemoved, SecretSet
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.scope import Address, Scope
from tests.unit.egress_secrets.bench import AGENT, MASTER, SCOPE, Bench

VALUE = "sk-a-very-secret-value"
OTHER = Scope("globex", "default")


@pytest.fixture(name="bench")
def _bench() -> Bench:
    return Bench()


# -- sealing -----------------------------------------------------------------------------------------------


def test_what_is_sealed_opens_with_its_key_in_its_place_alone() -> None:
    key, place = bytes(32), bound("secret", "acme", "one", "1")
    sealed = seal(key, place, b"plain", SeededIds())
    assert b"plain" not in sealed
    assert unseal(key, place, sealed) == b"plain"
    for wrong_key, wrong_place, wrong in (
        (bytes(31) + b"\1", place, sealed),
        (key, bound("secret", "acme", "one", "2"), sealed),
        (key, place, sealed[:-1] + bytes((sealed[-1] ^ 1,))),
        (key, place, bytes((sealed[0] ^ 1,)) + sealed[1:]),
        (key, place, b""),
    ):
        with pytest.raises(Broken):
            unseal(wrong_key, wrong_place, wrong)


def test_two_sealings_of_the_same_have_nothing_in_common() -> None:
    ids = SeededIds()
    one, other = (seal(bytes(32), b"", b"plain", ids) for _ in range(2))
    assert one[:28] != other[:28]
    assert one[28:] != other[28:]


def test_no_two_places_are_one() -> None:
    assert bound("a", "bc") != bound("ab", "c") != bound("a:2", "bc")


def test_a_master_key_shows_only_its_fingerprint() -> None:
    assert repr(MASTER) == f"MasterKey(fingerprint='{MASTER.fingerprint}')"
    assert MasterKey.parse(MASTER.text().decode(), "here") == MASTER
    for text in ("", "c2hvcnQ=", "%%%", MASTER.key.hex()):
        with pytest.raises(InvalidArgument, match=r"^here holds no key") as caught:
            MasterKey.parse(text, "here")
        assert text[:8] == "" or text[:8] not in str(caught.value)


# -- named secrets -----------------------------------------------------------------------------------------


def test_a_secret_is_kept_sealed_and_survives(bench: Bench) -> None:
    info = bench.vault().set("acme", "openai", VALUE, by="ada")
    assert (info.name, info.version, info.set_by) == ("openai", 1, "ada")
    assert info.set_ms == bench.clock.ns // 1_000_000
    assert VALUE.encode() not in bench.stored()
    again = bench.vault()
    assert again.reveal("acme", "openai") == VALUE
    assert again.secrets("acme") == [info] == [again.secret("acme", "openai")]
    assert bench.seen == [SecretSet("acme", "openai", 1, "ada")]


def test_a_new_value_replaces_the_old_one(bench: Bench) -> None:
    vault = bench.vault()
    vault.set("acme", "openai", VALUE, by="ada")
    before = bench.database.read("SELECT sealed FROM secrets")
    assert vault.set("acme", "openai", VALUE, by="ada").version == 2
    assert bench.database.read("SELECT sealed FROM secrets") != before
    vault.set("acme", "openai", "another-value", by="bob")
    assert bench.vault().reveal("acme", "openai") == "another-value"
    assert len(bench.database.read("SELECT * FROM secrets")) == 1


def test_a_secret_is_forgotten(bench: Bench) -> None:
    vault = bench.vault()
    vault.set("acme", "openai", VALUE, by="ada")
    vault.remove("acme", "openai", by="bob")
    for each in (vault, bench.vault()):
        with pytest.raises(NotFound, match="set it with `plexspaces secret set openai`"):
            each.reveal("acme", "openai")
        with pytest.raises(NotFound):
            each.remove("acme", "openai", by="bob")
    assert bench.seen[1:] == [SecretRemoved("acme", "openai", "bob")]


def test_tenants_do_not_see_one_another(bench: Bench) -> None:
    vault = bench.vault()
    vault.set("acme", "openai", VALUE, by="ada")
    assert vault.secrets("globex") == []
    with pytest.raises(NotFound):
        vault.reveal("globex", "openai")
    vault.set("globex", "openai", "the-other-value", by="eve")
    assert vault.reveal("acme", "openai") == VALUE
    assert vault.watch("globex").found_in(VALUE.encode()) == set()


@pytest.mark.parametrize(
    "swap",
    [
        "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE name = 'two') WHERE name = 'one'",
        "UPDATE secrets SET version = 2 WHERE name = 'one'",
        "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE tenant = 'globex') WHERE name = 'one'",
        "UPDATE secrets SET sealed = x'00' WHERE name = 'one'",
    ],
)
def test_rows_cannot_be_swapped(bench: Bench, swap: str) -> None:
    vault = bench.vault()
    vault.set("acme", "one", VALUE, by="ada")
    vault.set("acme", "two", "the-value-of-two", by="ada")
    vault.set("globex", "one-of-theirs", "the-value-of-globex", by="eve")
    bench.database.write([(swap, ())])
    again = bench.vault()
    with pytest.raises(NotFound, match="damaged: set it again with `plexspaces secret set one`"):
        again.reveal("acme", "one")
    assert again.reveal("acme", "two") == "the-value-of-two"
    assert again.watch("acme").found_in(b"the-value-of-two") == {"secret 'two'"}


def test_a_tenant_whose_key_is_damaged_stops_the_start(bench: Bench) -> None:
    bench.vault().set("acme", "one", VALUE, by="ada")
    bench.database.write([("UPDATE vault_keys SET wrapped = x'0011'", ())])
    with pytest.raises(Unavailable, match="key of tenant 'acme' is damaged"):
        bench.vault()


@pytest.mark.parametrize("size", [8, 64])
def test_the_smallest_and_the_largest_value(size: int) -> None:
    vault = Bench(Limits(secret_bytes_max=64)).vault()
    vault.set("acme", "one", "v" * size, by="ada")
    assert vault.reveal("acme", "one") == "v" * size


def test_values_that_are_none() -> None:
    vault = Bench(Limits(secret_bytes_max=64)).vault()
    with pytest.raises(InvalidArgument, match="has 7 bytes, and is to have 8 at least"):
        vault.set("acme", "one", "1234567", by="ada")
    with pytest.raises(LimitExceeded, match="65 bytes, more than secret_bytes_max = 64"):
        vault.set("acme", "one", "v" * 65, by="ada")
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        vault.set("acme", "one", "half a pair: \ud800", by="ada")
    for name in ("", "a/b", "../x", "n" * 65, "a b"):
        with pytest.raises(InvalidArgument, match="is not a name"):
            vault.set("acme", name, VALUE, by="ada")
    assert vault.secrets("acme") == []


def test_a_tenant_has_so_many_secrets() -> None:
    vault = Bench(Limits(secrets_per_tenant_max=2)).vault()
    vault.set("acme", "one", VALUE, by="ada")
    vault.set("acme", "two", VALUE, by="ada")
    with pytest.raises(LimitExceeded, match="secrets_per_tenant_max"):
        vault.set("acme", "three", VALUE, by="ada")
    assert vault.set("acme", "two", VALUE, by="ada").version == 2
    vault.set("globex", "one", VALUE, by="eve")
    vault.remove("acme", "one", by="ada")
    vault.set("acme", "three", VALUE, by="ada")


# -- phantom tokens ----------------------------------------------------------------------------------------


def test_a_token_stands_for_a_value_of_a_message(bench: Bench) -> None:
    vault = bench.vault()
    token = vault.veil(AGENT, VALUE)
    assert token.startswith("phantom-")
    assert VALUE not in token
    assert VALUE.encode() not in bench.stored()
    assert vault.veil(AGENT, VALUE) == token == bench.vault().veil(AGENT, VALUE), "the same message is the same"
    assert vault.veil(AGENT, token) == token, "what is a token already stays one"
    assert vault.veil(Address(SCOPE, "other"), VALUE) != token, "who gets it elsewhere does not know it is the same"
    known = vault.stands_for(SCOPE, token)
    assert known is not None
    assert (known.value, known.links) == (VALUE, ())
    assert vault.stands_for(Scope("acme", "other"), token) is None
    assert vault.stands_for(OTHER, token) is None


def test_a_token_that_nobody_registers_is_forgotten_after_an_hour(bench: Bench) -> None:
    vault = bench.vault()
    token = vault.veil(AGENT, VALUE)
    bench.pass_s(3_600)
    assert vault.stands_for(SCOPE, token) is not None
    assert vault.veil(AGENT, VALUE) == token
    bench.pass_s(3_600)
    assert vault.stands_for(SCOPE, token) is not None, "an hour after the last message"
    bench.pass_s(61)
    assert vault.stands_for(SCOPE, token) is None
    assert bench.vault().stands_for(SCOPE, token) is None
    vault.veil(AGENT, "another-value")
    assert len(bench.database.read("SELECT * FROM credentials")) == 1, "and it is deleted"


def test_a_token_is_registered_for_links(bench: Bench) -> None:
    vault = bench.vault()
    assert vault.register(AGENT, "my-token", VALUE, ["github", "github", "gitlab"]) == "my-token"
    assert bench.seen == [CredentialRegistered(AGENT, "my-token", ("github", "gitlab"))]
    assert VALUE.encode() not in bench.stored()
    again = bench.vault()
    bench.pass_s(10 * 86_400)
    known = again.stands_for(SCOPE, "my-token")
    assert known is not None
    assert (known.value, known.links) == (VALUE, ("github", "gitlab"))
    assert VALUE not in repr(known)


def test_a_message_s_token_is_bound(bench: Bench) -> None:
    vault = bench.vault()
    passing = vault.veil(AGENT, VALUE)
    vault.register(AGENT, "my-token", passing, ["github"])
    bench.pass_s(7_200)
    known = vault.stands_for(SCOPE, "my-token")
    assert known is not None
    assert known.value == VALUE
    # Under its own name it stays, too.
    vault.register(AGENT, passing, "my-token", ["github"])
    vault.veil(AGENT, VALUE)
    bench.pass_s(7_200)
    itself = vault.stands_for(SCOPE, passing)
    assert itself is not None
    assert (itself.value, itself.links) == (VALUE, ("github",))


def test_a_token_is_registered_anew_and_forgotten(bench: Bench) -> None:
    vault = bench.vault()
    vault.register(AGENT, "my-token", VALUE, ["github"])
    vault.register(AGENT, "my-token", "another-value", ["gitlab"])
    known = vault.stands_for(SCOPE, "my-token")
    assert known is not None
    assert (known.value, known.links) == ("another-value", ("gitlab",))
    assert vault.forget(OTHER, "my-token") is False
    assert vault.forget(SCOPE, "my-token") is True
    assert vault.forget(SCOPE, "my-token") is False
    assert bench.vault().stands_for(SCOPE, "my-token") is None


def test_a_call_that_is_made_again_makes_the_same_token(bench: Bench) -> None:
    vault = bench.vault()
    chosen = vault.register(AGENT, "", VALUE, ["github"])
    assert vault.register(AGENT, "", VALUE, ["github"]) != chosen
    once = vault.register(AGENT, "", VALUE, ["github"], mark="m-1/2")
    assert bench.vault().register(AGENT, "", VALUE, ["github"], mark="m-1/2") == once
    assert vault.register(AGENT, "", VALUE, ["github"], mark="m-1/3") != once


def test_a_credential_is_covered_for_the_record(bench: Bench) -> None:
    vault = bench.vault()
    cover = vault.cover(AGENT, VALUE)
    assert VALUE not in cover
    assert vault.uncovered(cover) == VALUE
    assert vault.uncovered(cover) == cover, "for one call alone"
    assert vault.cover(AGENT, VALUE) == cover == bench.vault().cover(AGENT, VALUE)
    token = vault.veil(AGENT, VALUE)
    assert vault.cover(AGENT, token) == token


def test_registrations_that_are_none(bench: Bench) -> None:
    vault = bench.vault()
    for token in ("short", "with space", "a" * 257, "ümlaut-token", "a:b:c:d:e"):
        with pytest.raises(InvalidArgument, match="a phantom token has 8 to 256"):
            vault.register(AGENT, token, VALUE, ["github"])
    with pytest.raises(InvalidArgument, match="for 1 to 64 links, not for 0"):
        vault.register(AGENT, "my-token", VALUE, [])
    with pytest.raises(InvalidArgument, match="not for 65"):
        vault.register(AGENT, "my-token", VALUE, [f"link-{number}" for number in range(65)])
    with pytest.raises(InvalidArgument, match="is the credential itself"):
        vault.register(AGENT, VALUE, VALUE, ["github"])
    with pytest.raises(InvalidArgument, match="a credential has 4 bytes"):
        vault.register(AGENT, "my-token", "tiny", ["github"])
    assert bench.database.read("SELECT * FROM credentials") == []


def test_a_tenant_has_so_many_tokens() -> None:
    bench = Bench(Limits(credentials_per_tenant_max=2))
    vault = bench.vault()
    vault.register(AGENT, "token-one", VALUE, ["github"])
    passing = vault.veil(AGENT, "value-of-a-message")
    with pytest.raises(LimitExceeded, match="credentials_per_tenant_max"):
        vault.veil(AGENT, "value-of-another")
    vault.veil(AGENT, "value-of-a-message")
    vault.register(AGENT, "token-one", "another-value", ["github"])
    vault.veil(Address(OTHER, "agent"), "value-of-theirs")
    bench.pass_s(3_700)
    vault.veil(AGENT, "value-of-another")
    assert vault.stands_for(SCOPE, passing) is None
    with pytest.raises(LimitExceeded):
        bench.vault().veil(AGENT, "value-number-four")


@pytest.mark.parametrize(
    "swap",
    [
        "UPDATE credentials SET token = 'token-two' WHERE token = 'token-one'",
        "UPDATE credentials SET namespace = 'other' WHERE token = 'token-one'",
        "UPDATE credentials SET until_ms = 1999999999999 WHERE token = 'token-one'",
    ],
)
def test_rows_of_tokens_cannot_be_swapped(bench: Bench, swap: str) -> None:
    bench.vault().register(AGENT, "token-one", VALUE, ["github"])
    bench.database.write([(swap, ())])
    vault = bench.vault()
    for scope in (SCOPE, Scope("acme", "other")):
        for token in ("token-one", "token-two"):
            if bench.database.read(
                "SELECT 1 FROM credentials WHERE namespace = ? AND token = ?", (scope.namespace, token)
            ):
                with pytest.raises(NotFound, match="damaged"):
                    vault.stands_for(scope, token)
            else:
                assert vault.stands_for(scope, token) is None


def test_the_watch_follows(bench: Bench) -> None:
    vault = bench.vault()
    vault.set("acme", "openai", VALUE, by="ada")
    vault.register(AGENT, "my-token", "github-value-1", ["github"])
    text = f"{VALUE} github-value-1 github-value-2".encode()
    watch = vault.watch("acme")
    token = "phantom token 'my-token' of namespace 'default'"
    assert watch.found_in(text) == {"secret 'openai'", token}
    vault.set("acme", "openai", "another-value", by="ada")
    assert watch.found_in(text) == {token}
    vault.register(AGENT, "my-token", "github-value-2", ["github"])
    assert watch.found_in(b"github-value-1") == set()
    assert watch.found_in(text) == {token}
    vault.forget(SCOPE, "my-token")
    vault.remove("acme", "openai", by="ada")
    assert len(watch) == 0
    assert vault.watch("globex") is not watch


# -- another master key ------------------------------------------------------------------------------------


def filled(bench: Bench) -> Vault:
    vault = bench.vault()
    vault.set("acme", "openai", VALUE, by="ada")
    vault.set("globex", "openai", "value-of-globex", by="eve")
    vault.register(AGENT, "my-token", "github-value-1", ["github"])
    return vault


def check_filled(vault: Vault) -> None:
    assert vault.reveal("acme", "openai") == VALUE
    assert vault.reveal("globex", "openai") == "value-of-globex"
    known = vault.stands_for(SCOPE, "my-token")
    assert known is not None
    assert known.value == "github-value-1"


def test_going_over_to_another_master_key(bench: Bench) -> None:
    filled(bench)
    other = MasterKey(b"\x07" * 32)
    check_filled(bench.vault(Keys(other, before=MASTER)))
    assert set(bench.database.read("SELECT master FROM vault_keys")) == {(other.fingerprint,)}
    check_filled(bench.vault(Keys(other)))
    with pytest.raises(Unavailable):
        bench.vault(Keys(MASTER))


async def test_a_key_of_the_environment_is_not_rotated(bench: Bench) -> None:
    with pytest.raises(Conflict, match="PLEXSPACES_SECRETS_PREVIOUS_KEY"):
        await filled(bench).rotate()
