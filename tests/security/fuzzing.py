"""How much the fuzz tests try, and the ingredients that several of them use.

`PLEXSPACES_FUZZ=50 pytest tests/security` tries fifty times as many examples as the suite does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("PLEXSPACES_FUZZ", "1"))

# What breaks parsers: by themselves, and inside of everything else.
NASTY = (
    "",
    "\x00",
    "\ud800",
    "\udfff",
    "\u2028",
    "\ufeff",
    "\u202e",
    "\U0010ffff",
    "../../etc/passwd",
    "%2e%2e%2f",
    "%",
    "a" * 300,
    "\r\nx: y",
    "'; DROP TABLE journal; --",
    "nan",
    "Infinity",
    "1e999",
    "-0",
    "0x" + "f" * 5_000,
    "9" * 5_000,
    "[" * 300 + "]" * 300,
    "[" * 2_000 + "]" * 2_000,
    '{"a":' * 300 + "1" + "}" * 300,
    "[" * 100_000,
    '"\\ud800"',
    '{"a":1,"a":2}',
)


def check_named(error: Exception, chars_max: int = 20_000) -> None:
    """An error of ours that says whose fault it is, and may quote what was sent, but not all of it."""
    assert getattr(error, "code", "") != "internal"
    assert len(str(error)) < chars_max


def examples(number: int) -> Callable[[Any], Any]:
    """So many examples, times the factor; no deadline, because a slow machine is no fault."""
    return settings(
        max_examples=number * FACTOR,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
    )


def texts(**kwargs: Any) -> st.SearchStrategy[str]:
    """Any text, lone surrogates and the nasty ones included."""
    return st.one_of(st.text(st.characters(exclude_categories=()), **kwargs), st.sampled_from(NASTY))


def byte_strings(*seeds: bytes, size_max: int = 400) -> st.SearchStrategy[bytes]:
    """Bytes at random, and the seeds damaged at random."""
    anything = st.binary(max_size=size_max)
    return st.one_of(anything, *(damaged(seed) for seed in seeds))


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """A seed with some pieces replaced, left out, repeated or put in."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        match draw(st.sampled_from(("replace", "repeat", "flip", "nasty"))):
            case "replace":
                data[at:end] = draw(st.binary(max_size=12))
            case "repeat":
                data[at:at] = data[at:end] * draw(st.integers(1, 4))
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "nasty":
                data[at:end] = draw(st.sampled_from(NASTY)).encode("utf-8", "surrogatepass")
    return bytes(data)


def json_values(leaves: int = 20) -> st.SearchStrategy[Any]:
    """JSON values with numbers, texts and names of every kind."""
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(), texts(max_size=20)
    )
    return st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts(max_size=10), inner, max_size=5)),
        max_leaves=leaves,
    )


def json_texts() -> st.SearchStrategy[str]:
    """JSON text, some of it no JSON by a hair."""
    return st.one_of(
        json_values().map(lambda value: json.dumps(value, ensure_ascii=True)),
        json_values().map(lambda value: json.dumps(value, ensure_ascii=False)),
        texts(),
        st.integers(1, 3_000).map(lambda depth: "[" * depth + "]" * depth),
    )
