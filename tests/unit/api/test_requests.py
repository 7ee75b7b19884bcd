"""Reading requests, without a socket."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.api.requests import (
    decode_segment,
    parse_actor_path,
    parse_idempotency_key,
    parse_message,
    parse_query_message,
    parse_traceparent,
    parse_wait,
)
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.scope import Address, Scope

SCOPE = Scope("acme", "shop")


@pytest.mark.parametrize(
    ("rest", "actor", "about"),
    [
        (b"acme/shop/cart", Address(SCOPE, "cart"), None),
        (b"acme/shop/cart/ada%40x", Address(SCOPE, "cart", "ada@x"), None),
        (b"acme/shop/cart/default", Address(SCOPE, "cart"), None),
        (b"acme/shop/cart/info", Address(SCOPE, "cart", "info"), Address(SCOPE, "cart")),
        (b"acme/shop/cart/ada/info", None, Address(SCOPE, "cart", "ada")),
        (b"acme/shop/cart/info/info", None, Address(SCOPE, "cart", "info")),
    ],
)
def test_an_actors_path(rest: bytes, actor: Address | None, about: Address | None) -> None:
    path = parse_actor_path(rest)
    assert path is not None
    assert (path.tenant, path.namespace, path.actor, path.about) == ("acme", "shop", actor, about)


@pytest.mark.parametrize("rest", [b"", b"acme", b"acme/shop", b"acme/shop/cart/a/b", b"acme/shop/cart/a/info/x"])
def test_a_path_of_another_shape(rest: bytes) -> None:
    assert parse_actor_path(rest) is None


@given(st.text(min_size=1).filter(lambda key: key.encode("utf-8", "ignore").decode() == key))
def test_a_key_survives_its_encoding_or_is_refused(key: str) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in key.encode())
    try:
        address = Address.parse(SCOPE, f"cart/{key}")
    except InvalidArgument:
        with pytest.raises(InvalidArgument):
            parse_actor_path(b"acme/shop/cart/" + encoded.encode())
    else:
        path = parse_actor_path(b"acme/shop/cart/" + encoded.encode())
        assert path is not None
        assert path.actor == address


@pytest.mark.parametrize("segment", [b"%", b"%2", b"a%zz", b"%ff", b"%c3%28", b"%ED%A0%80"])
def test_bad_percent_encoding(segment: bytes) -> None:
    with pytest.raises(InvalidArgument):
        decode_segment(segment)


@pytest.mark.parametrize(
    ("body", "op"),
    [
        (b'{"op":"a","action":"b"}', "a"),
        (b'{"msg_type":"c","action":"b"}', "b"),
        (b'{"op":null,"msg_type":"c"}', "c"),
        (b' {"message_type" : "d"} ', "d"),
    ],
)
def test_the_operation(body: bytes, op: str) -> None:
    assert parse_message(body) == (op, body.decode())


@pytest.mark.parametrize(
    ("query", "op", "payload"),
    [
        (b"", "get", {}),
        (b"a=1", "get", {"a": 1}),
        (b"a=007", "get", {"a": "007"}),
        (b"a=1.50", "get", {"a": 1.5}),
        (b"a=true&b=false&c=null", "get", {"a": True, "b": False, "c": None}),
        (b"a=True&b=NaN&c=Infinity", "get", {"a": "True", "b": "NaN", "c": "Infinity"}),
        (b"a=%22%22&b=%22", "get", {"a": "", "b": '"'}),
        (b"a=x+y&b=x%2By", "get", {"a": "x y", "b": "x+y"}),
        (b"a=&b", "get", {"a": "", "b": ""}),
        (b"a=1&a=x", "get", {"a": [1, "x"]}),
        (b"a=%5B1%5D&a=2", "get", {"a": [[1], 2]}),
        (b"op=7", "7", {"op": "7"}),
        (b"action=find&id=1", "find", {"action": "find", "id": 1}),
        (b"%22%5C=%0A", "get", {'"\\': "\n"}),
    ],
)
def test_a_query(query: bytes, op: str, payload: object) -> None:
    found, text = parse_query_message(query)
    assert (found, json.loads(text)) == (op, payload)


def test_a_long_number_in_a_query_stays_what_it_is() -> None:
    assert parse_query_message(b"id=123456789012345678901234567890")[1] == '{"id":123456789012345678901234567890}'


@given(st.dictionaries(st.text(), st.text()))
def test_whatever_a_query_holds_the_payload_is_json(arguments: dict[str, str]) -> None:
    arguments = {k: v for k, v in arguments.items() if k not in ("op", "action", "message_type", "msg_type")}
    try:
        query = urlencode(arguments).encode()
    except UnicodeEncodeError:
        return
    _, text = parse_query_message(query) if len(arguments) <= 100 else ("", "{}")
    payload = orjson.loads(text)
    for name, value in payload.items():
        if isinstance(value, str) and not arguments[name].strip().startswith('"'):
            assert value == arguments[name]


@pytest.mark.parametrize("query", [b"op=", b"op=a&op=b", b"op=" + b"x" * 129])
def test_a_query_without_a_usable_operation(query: bytes) -> None:
    with pytest.raises(InvalidArgument):
        parse_query_message(query)


@pytest.mark.parametrize(
    ("query", "prefer", "wait_s"),
    [
        ({}, None, None),
        ({"wait": "2"}, None, 2.0),
        ({"wait": "300"}, b"wait=1", 300.0),
        ({}, b"wait=10", 10.0),
        ({}, b"respond-async, Wait = 2.5", 2.5),
        ({}, b'wait="3"', 3.0),
        ({}, b"wait=3; x=y", 3.0),
        ({}, b"wait=100000", 300.0),
        ({}, b"wait=0", None),
        ({}, b"return=minimal, handling=strict", None),
        ({}, b"", None),
        ({}, b"waiter=3", None),
        ({}, b"\xff\xfe", None),
    ],
)
def test_how_long_to_wait(query: dict[str, str], prefer: bytes | None, wait_s: float | None) -> None:
    assert parse_wait(query, prefer, 300) == wait_s


@pytest.mark.parametrize(("query", "prefer"), [({"wait": "0"}, None), ({"wait": "300.1"}, None), ({}, b"wait=soon")])
def test_a_wait_that_cannot_be(query: dict[str, str], prefer: bytes | None) -> None:
    with pytest.raises(InvalidArgument):
        parse_wait(query, prefer, 300)


def test_an_idempotency_key_may_be_quoted() -> None:
    assert parse_idempotency_key(b'"a b"') == "a b"
    assert parse_idempotency_key(b"ab") == "ab"
    assert parse_idempotency_key(b"x" * 255) == "x" * 255


def test_a_traceparent_is_taken_or_ignored() -> None:
    good = b"00-" + b"0" * 31 + b"1-" + b"0" * 15 + b"1-01"
    assert parse_traceparent(good) == good.decode()
    for bad in (None, b"", b"x", good + b"-x", good.upper().replace(b"0", b"A"), b"01" + good[2:] + b"\n"):
        assert parse_traceparent(bad) == ""
