"""Values are found however they are written and cut, and nothing else is touched."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.egress.scan import Mark, Redaction, TooSuspicious, Watch

VALUE = "sk-proj-9fQ/Lm+2 \"x\\y'é%41~"
LONG = "sk-live-" + base64.b64encode(bytes(range(60))).decode()
MARK = Mark("openai", "[secret openai]")
Write = Callable[[str], str]


def fully(text: str, form: str) -> str:
    return "".join(form.format(byte) for byte in text.encode())


def units(text: str, form: str) -> str:
    raw = text.encode("utf-16-be")
    return "".join(form.format(int.from_bytes(raw[at : at + 2], "big")) for at in range(0, len(raw), 2))


def in_base64(before: bytes, after: bytes, *, url: bool = False, padded: bool = True) -> Write:
    def write(text: str) -> str:
        raw = before + text.encode() + after
        encoded = (base64.urlsafe_b64encode if url else base64.b64encode)(raw).decode()
        return encoded if padded else encoded.rstrip("=")

    return write


def inner(text: str) -> str:
    return json.dumps(text)[1:-1]


WAYS: dict[str, Write] = {
    "raw": str,
    **{
        f"base64, {len(before)} before, {len(after)} behind, {url=}, {padded=}": in_base64(
            before, after, url=url, padded=padded
        )
        for before in (b"", b"u", b"u:", b"us:")
        for after in (b"", b"!", b"!!")
        for url in (False, True)
        for padded in (False, True)
    },
    "hexadecimal": lambda text: text.encode().hex(),
    "HEXADECIMAL": lambda text: text.encode().hex().upper(),
    "percent": lambda text: quote(text, safe=""),
    "percent, slashes left": quote,
    "percent, lower": lambda text: quote(text, safe="").lower() if text.islower() else fully(text, "%{:02x}"),
    "percent, fully": lambda text: fully(text, "%{:02X}"),
    "percent, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, not ASCII": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON, slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON, units": lambda text: units(text, "\\u{:04x}"),
    "JSON, UNITS": lambda text: units(text, "\\u{:04X}"),
    "JSON in JSON": lambda text: inner(inner(text)),
    "JSON in JSON in JSON": lambda text: inner(inner(inner(text))),
    "base64, slashes escaped": lambda text: base64.b64encode(text.encode()).decode().replace("/", "\\/"),
    "base64 in a query": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
    "percent in JSON": lambda text: json.dumps(quote(text, safe=""))[1:-1],
}


@pytest.mark.parametrize("value", [VALUE, LONG, "pässwörter-\U0001f680", "12345678"])
@pytest.mark.parametrize("way", WAYS)
def test_a_value_is_found_however_it_is_written(value: str, way: str) -> None:
    written = WAYS[way](value)
    redaction = Redaction({value: MARK})
    before, after = '{"error": "bad key ', ' given", "code": 401}'
    said = redaction.text(before + written + after)
    assert redaction.found == {"openai"}
    assert said.startswith(before)
    assert said.endswith(after)
    assert MARK.instead in said
    if way.startswith("base64"):
        # What stands beside it in the same base64 stays.
        assert len(said) < len(before + after) + len(MARK.instead) + 14
    else:
        assert said == before + MARK.instead + after
    watch = Watch()
    watch.put("it", value)
    assert watch.found_in(f"{before}{written}{after}".encode()) == {"it"}


def test_a_space_may_be_a_plus_where_the_rest_is_found() -> None:
    value = "one two three four"
    said = Redaction({value: MARK}).text(quote_plus(value))
    assert said in (MARK.instead, quote_plus(value))


def test_bytes_that_are_no_text() -> None:
    data = b"\xff\xfe" + VALUE.encode() + b"\x00\x80"
    assert Redaction({VALUE: MARK}).data(data) == b"\xff\xfe[secret openai]\x00\x80"


def test_nothing_to_look_for() -> None:
    redaction = Redaction({})
    assert redaction.text("sk-proj-anything") == "sk-proj-anything"
    stream = redaction.stream()
    assert stream.feed("any\\u00") + stream.finish() == "any\\u00"


def test_several_values_at_once() -> None:
    redaction = Redaction({"aaaabbbbcccc": Mark("one", "<1>"), "bbbbcccc": Mark("two", "<2>")})
    assert redaction.text("aaaabbbbcccc bbbbcccc aaaabbbb") == "<1> <2> aaaabbbb"
    assert redaction.found == {"one", "two"}
    overlapping = Redaction({"abcdefgh12": Mark("one", "<1>"), "gh12345678": Mark("two", "<2>")})
    assert overlapping.text("x abcdefgh12345678 y") == "x <1> y"


def test_a_stream_gives_on_what_cannot_be_a_value() -> None:
    stream = Redaction({"sk-secret-value": MARK}).stream()
    assert stream.feed("Hello, ") == "Hello, "
    assert stream.feed("ask me") == "ask me"
    assert stream.feed(" sk-sec") == " "
    assert stream.feed("ond") == "sk-second"
    assert stream.feed(" sk-secret-") == " "
    assert stream.feed("value.") == "[secret openai]."
    assert stream.feed("sk-") == ""
    assert stream.finish() == "sk-"


def test_a_longer_value_is_waited_for() -> None:
    values = {"key-1234": Mark("short", "<s>"), "key-1234-and-more": Mark("long", "<l>")}
    stream = Redaction(values).stream()
    assert stream.feed("key-1234") == ""
    assert stream.feed("-and-more") + stream.finish() == "<l>"
    stream = Redaction(values).stream()
    assert stream.feed("key-1234") + stream.feed(" key-1234") + stream.finish() == "<s> <s>"


def cut(text: str, at: list[int]) -> list[str]:
    places = [0, *sorted(place % (len(text) + 1) for place in at), len(text)]
    return [text[first:end] for first, end in pairwise(places)]


values = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=8, max_size=40)
around = st.text(st.characters(codec="utf-8"), max_size=60)


@given(values, st.sampled_from(sorted(WAYS)), around, around, st.lists(st.integers(0, 10_000), max_size=40))
def test_no_cut_hides_a_value(value: str, way: str, before: str, after: str, places: list[int]) -> None:
    if "%" in value or "\\" in value:
        # Such a value raw behind an escape is something else: another test has those that are whole.
        value = value.replace("%", "p").replace("\\", "b")
    # Where an escape ends in the middle of the value, or goes on in it, it is another text.
    before, after = before.replace("\\", "").replace("%", ""), after.replace("\\", "").replace("%", "")
    text = before + "|" + WAYS[way](value) + "|" + after
    stream = Redaction({value: MARK}).stream()
    said = "".join(stream.feed(piece) for piece in cut(text, places)) + stream.finish()
    redaction = Redaction({value: MARK})
    assert said == redaction.text(text)
    assert redaction.found == {"openai"}
    assert value not in said.replace(MARK.instead, "")
    watch = Watch()
    watch.put("it", value)
    assert watch.found_in(text.encode()) == {"it"}


@given(around, st.lists(st.integers(0, 10_000), max_size=40))
def test_what_holds_no_value_stays_as_it_is(text: str, places: list[int]) -> None:
    redaction = Redaction({VALUE: MARK, "sk-secret-value": MARK})
    assert redaction.text(text) == text
    stream = redaction.stream()
    assert "".join(stream.feed(piece) for piece in cut(text, places)) + stream.finish() == text
    assert not redaction.found


escapes = st.sampled_from(["%", "\\", "u", "0", "4", "1", "d", "8", "%41", "\\u0041", "\\\\", "a", "sk-", '"', "é"])


@given(st.lists(escapes, max_size=60).map("".join), st.lists(st.integers(0, 10_000), max_size=40))
def test_half_escapes_stay_as_they_are(text: str, places: list[int]) -> None:
    stream = Redaction({"AAAA-no-such-value": MARK}).stream()
    assert "".join(stream.feed(piece) for piece in cut(text, places)) + stream.finish() == text


@given(st.lists(escapes, max_size=30).map("".join), st.integers(0, 6))
def test_a_value_among_half_escapes_is_found_raw(text: str, place: int) -> None:
    at = min(place, len(text))
    said = Redaction({"zz-secret-value": MARK}).text(text[:at] + "|zz-secret-value|" + text[at:])
    assert "zz-secret-value" not in said


def test_what_is_kept_back_is_bounded() -> None:
    value = "a" * 64
    stream = Redaction({value + "b": MARK}).stream()
    given_on = sum(len(stream.feed("a" * 100)) for _ in range(100))
    assert 100 * 100 - given_on <= 2 * 13 * 65


def test_the_watch_forgets() -> None:
    watch = Watch()
    watch.put("one", "value-number-one")
    watch.put("two", "value-number-one")
    watch.put("three", "value-number-three")
    text = b"... value-number-one ..."
    assert watch.found_in(text) == {"one", "two"}
    watch.remove("one")
    assert watch.found_in(text) == {"two"}
    watch.put("two", "another-value-now")
    assert watch.found_in(text) == set()
    assert watch.found_in(b"x", b"another-value-now") == {"two"}
    watch.remove("nobody")
    for name in ("two", "three"):
        watch.remove(name)
    assert len(watch) == 0
    assert not watch._by_gram, "nothing is left of what was removed"


@pytest.mark.parametrize("offset", range(12))
def test_the_watch_finds_the_shortest_value_wherever_it_is(offset: int) -> None:
    watch = Watch()
    watch.put("it", "Abcdefg8")
    assert watch.found_in(b"." * offset + b"Abcdefg8") == {"it"}
    assert watch.found_in(b"." * offset + b"Abcdefg") == set()
    assert watch.found_in(b"." * offset + b"bcdefg8") == set()


def test_a_text_of_near_misses_is_refused() -> None:
    watch = Watch()
    for number in range(200):
        watch.put(str(number), f"{number:04}-the-same-end")
    with pytest.raises(TooSuspicious):
        watch.found_in(b"the-same-end " * 5_000)
