"""Secrets go into the declared places of a request, for the links they belong to, and nowhere else."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from plexspaces_runtime.egress.credentials import VaultCredentials, secrets_of
from plexspaces_runtime.egress.model import Credentials, Outgoing, PhantomSlots, Slot
from plexspaces_runtime.egress.scan import Redaction
from plexspaces_runtime.errors import InvalidArgument, NotFound, PermissionDenied
from plexspaces_runtime.events import CredentialRefused, SecretInRequest
from plexspaces_runtime.scope import Scope
from tests.unit.egress_secrets.bench import AGENT, SCOPE, Bench

VALUE = "sk-a-very-secret-value"
KEY = 'ghp "quoted" & 100%'
AUTH = (Slot("header", "Authorization", "Bearer ${secret:openai}"),)


class Outlet:
    """A vault with a secret and a phantom token, and what puts them into requests."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.vault = self.bench.vault()
        self.vault.set("acme", "openai", VALUE, by="ada")
        self.vault.register(AGENT, "my-token", KEY, ["github"])
        self.credentials: Credentials = VaultCredentials(self.vault, self.bench.events)
        self.bench.seen.clear()

    def inject(
        self,
        *slots: Slot,
        link: str = "github",
        scope: Scope = SCOPE,
        phantoms: PhantomSlots | None = None,
        url: str = "https://api.example.com/v1/x",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> tuple[Outgoing, Any]:
        out = Outgoing("POST", url, headers or {}, body)
        return self.credentials.inject(scope, link, slots, phantoms or PhantomSlots(), out)


@pytest.fixture(name="outlet")
def _outlet() -> Outlet:
    return Outlet()


def test_a_link_s_secret_goes_into_its_header(outlet: Outlet) -> None:
    out, redactor = outlet.inject(*AUTH, headers={"accept": "*/*"}, body=b"hello")
    assert out.headers == {"accept": "*/*", "authorization": f"Bearer {VALUE}"}
    assert (out.method, out.url, out.body) == ("POST", "https://api.example.com/v1/x", b"hello")
    assert redactor.text(f"your key {VALUE} is bad") == "your key [secret openai] is bad"
    assert redactor.found == {"openai"}


def test_and_into_its_query(outlet: Outlet) -> None:
    outlet.vault.set("acme", "odd", "a&b=c d/é", by="ada")
    for url, before in (("https://api.example.com/x", {}), ("https://api.example.com/x?q=1", {"q": ["1"]})):
        out, _ = outlet.inject(Slot("query", "key", "${secret:odd}"), url=url)
        assert parse_qs(urlsplit(out.url).query) == {**before, "key": ["a&b=c d/é"]}


def test_several_in_one_template(outlet: Outlet) -> None:
    outlet.vault.set("acme", "second", "the-second-value", by="ada")
    slot = Slot("header", "X-Keys", "${secret:openai}:${secret:second}:${not:one}")
    out, redactor = outlet.inject(slot)
    assert out.headers == {"x-keys": f"{VALUE}:the-second-value:${{not:one}}"}
    assert redactor.text("the-second-value") == "[secret second]"
    assert secrets_of((slot, *AUTH)) == ("openai", "second")


def test_a_secret_that_is_not_set(outlet: Outlet) -> None:
    with pytest.raises(NotFound, match="secret 'other' is not set: set it with `plexspaces secret set other`"):
        outlet.inject(Slot("header", "X-Key", "${secret:other}"))
    with pytest.raises(NotFound):
        outlet.inject(*AUTH, scope=Scope("globex", "default"))


def test_a_new_value_counts_from_the_next_request_on(outlet: Outlet) -> None:
    outlet.vault.set("acme", "openai", "the-next-value", by="ada")
    assert outlet.inject(*AUTH)[0].headers == {"authorization": "Bearer the-next-value"}


def test_a_value_that_no_header_can_hold(outlet: Outlet) -> None:
    for value in ("two\r\nX-Evil: lines", "nul\x00nul-nul", "pässwörter"):
        outlet.vault.set("acme", "openai", value, by="ada")
        with pytest.raises(InvalidArgument, match="'Authorization' holds a line break") as caught:
            outlet.inject(*AUTH)
        assert value not in str(caught.value)


def test_a_phantom_token_is_swapped_where_the_link_allows(outlet: Outlet) -> None:
    headers = {"authorization": "token my-token", "x-other": "my-token", "x-api-key": "my-token"}
    out, redactor = outlet.inject(headers=headers, body=b"my-token", url="https://api.example.com/x?t=my-token")
    assert out.headers == {"authorization": f"token {KEY}", "x-other": "my-token", "x-api-key": KEY}
    assert out.body == b"my-token"
    assert out.url == "https://api.example.com/x?t=my-token"
    assert redactor.text(f"<{KEY}>") == "<my-token>"
    assert redactor.found == {"my-token"}


def test_what_is_only_part_of_a_word_is_no_token(outlet: Outlet) -> None:
    for text in ("my-token2", "xmy-token", "my-token.", "MY-TOKEN", "my-toke", "a" * 300):
        assert outlet.inject(headers={"authorization": text})[0].headers == {"authorization": text}
    for text in ("(my-token)", "my-token,my-token", '"my-token"', "user:my-token@"):
        out, _ = outlet.inject(headers={"authorization": text})
        assert out.headers == {"authorization": text.replace("my-token", KEY)}


def test_in_the_query_and_the_body(outlet: Outlet) -> None:
    slots = PhantomSlots(frozenset(), frozenset({"key"}), body=True)
    url = "https://api.example.com/x?a=%41&key=my-token&other=my-token&key"
    out, _ = outlet.inject(
        phantoms=slots, url=url, headers={"content-type": "application/json"}, body=b'{"token": "my-token"}'
    )
    assert parse_qs(urlsplit(out.url).query) == {"a": ["A"], "key": [KEY], "other": ["my-token"]}
    assert out.url.startswith("https://api.example.com/x?a=%41&key=")
    assert json.loads(out.body) == {"token": KEY}
    form, _ = outlet.inject(
        phantoms=slots, headers={"content-type": "application/x-www-form-urlencoded"}, body=b"a=1&token=my-token"
    )
    assert parse_qs(form.body.decode()) == {"a": ["1"], "token": [KEY]}
    plain, _ = outlet.inject(phantoms=slots, body=b"my-token")
    assert plain.body == KEY.encode()
    binary, redactor = outlet.inject(phantoms=slots, body=b"\xff my-token")
    assert binary.body == b"\xff my-token"
    assert redactor.text(KEY) == KEY


def test_a_token_through_another_link_is_refused(outlet: Outlet) -> None:
    with pytest.raises(PermissionDenied, match="'my-token' is not for link 'gitlab': it was registered for 'github'"):
        outlet.inject(link="gitlab", headers={"authorization": "Bearer my-token"})
    assert outlet.bench.seen == [CredentialRefused(SCOPE, "gitlab", "my-token", ("github",))]


def test_a_message_s_token_that_nobody_registered_is_refused(outlet: Outlet) -> None:
    token = outlet.vault.veil(AGENT, "the-value-of-a-user")
    with pytest.raises(PermissionDenied, match=r"it was not registered for any yet; see host\.register_credential"):
        outlet.inject(headers={"authorization": f"Bearer {token}"})
    assert outlet.bench.seen == [CredentialRefused(SCOPE, "github", token, ())]


def test_of_another_namespace_a_token_is_nothing(outlet: Outlet) -> None:
    for scope in (Scope("acme", "other"), Scope("globex", "default")):
        out, _ = outlet.inject(scope=scope, headers={"authorization": "Bearer my-token"})
        assert out.headers == {"authorization": "Bearer my-token"}


@pytest.mark.parametrize(
    "request_",
    [
        {"body": f"my key is {VALUE}".encode()},
        {"body": base64.b64encode(b"key=" + VALUE.encode())},
        {"headers": {"x-anything": VALUE}},
        {"headers": {"authorization": f"Bearer {VALUE}"}},
        {"url": f"https://api.example.com/{VALUE}"},
        {"url": f"https://api.example.com/?q={VALUE.encode().hex()}"},
        {"body": json.dumps({"a": KEY}).encode()},
    ],
)
def test_a_request_that_holds_a_secret_itself_is_refused(outlet: Outlet, request_: dict[str, Any]) -> None:
    with pytest.raises(PermissionDenied, match="holds a secret value itself") as caught:
        outlet.inject(*AUTH, **request_)
    assert "openai" not in str(caught.value), "a guest that tries values learns no names"
    (event,) = outlet.bench.seen
    assert isinstance(event, SecretInRequest)
    assert event.names in (("secret 'openai'",), ("phantom token 'my-token' of namespace 'default'",))
    # Another tenant's secrets are none of this one's.
    outlet.credentials.inject(
        Scope("globex", "default"), "x", (), PhantomSlots(), Outgoing("GET", "https://h/", {}, VALUE.encode())
    )


def test_a_request_made_to_be_slow_is_refused(outlet: Outlet) -> None:
    for number in range(40):
        outlet.vault.register(AGENT, f"token-{number:04}", f"{number:04}-the-same-end", ["github"])
    with pytest.raises(PermissionDenied, match="so many places"):
        outlet.inject(body=b"the-same-end " * 20_000)
    assert outlet.bench.seen[-1] == SecretInRequest(SCOPE, "github", ())


def test_a_request_holds_so_many_secrets(outlet: Outlet) -> None:
    for number in range(33):
        outlet.vault.register(AGENT, f"token-{number:04}", f"the-value-{number:04}", ["github"])
    tokens = [f"token-{number:04}" for number in range(33)]
    slots = PhantomSlots(body=True)
    outlet.inject(phantoms=slots, body=" ".join(tokens[:32]).encode())
    with pytest.raises(InvalidArgument, match="32 secrets at most"):
        outlet.inject(phantoms=slots, body=" ".join(tokens).encode())


def test_what_looks_into_an_answer_shows_nothing() -> None:
    outlet = Outlet()
    out, redactor = outlet.inject(*AUTH, body=VALUE[:8].encode())
    assert isinstance(redactor, Redaction)
    assert VALUE not in repr(redactor)
    stream = redactor.stream()
    said = [stream.feed(piece) for piece in ("the key ", VALUE[:9], VALUE[9:], "!")]
    assert "".join(said) + stream.finish() == "the key [secret openai]!"
    assert out.headers["authorization"].endswith(VALUE)
