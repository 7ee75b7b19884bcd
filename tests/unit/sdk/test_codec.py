"""State comes back as it was: the same values of the same types."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import math
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces import codec


class Colour(enum.Enum):
    RED = "red"
    BLUE = ("b", 1)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclass
class Item:
    name: str
    price: Decimal
    tags: set[str] = field(default_factory=set)
    derived: int = field(init=False, default=0)


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float


def canonical(member: Any) -> str:
    """A member of a set as text that tells types apart and does not depend on the order inside it."""
    if isinstance(member, frozenset):
        return f"frozenset{sorted(map(canonical, member))}"
    if isinstance(member, tuple):
        return f"tuple{[canonical(one) for one in member]}"
    return f"{type(member).__name__}:{member!r}"


def exactly_equal(left: Any, right: Any) -> bool:
    """Equal all the way down, and of the same types: `True` is not 1, 1.0 is not 1, -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(exactly_equal(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, (set, frozenset)):
        return sorted(map(canonical, left)) == sorted(map(canonical, right))
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            exactly_equal(a, b) for a, b in zip(left.items(), right.items(), strict=True)
        )
    if isinstance(left, Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, dt.datetime):
        return left == right and left.fold == right.fold and exactly_equal(left.tzinfo, right.tzinfo)
    if isinstance(left, dt.timezone):
        return left == right and left.tzname(None) == right.tzname(None)
    if dataclasses.is_dataclass(left):
        return all(
            exactly_equal(getattr(left, one.name), getattr(right, one.name)) for one in dataclasses.fields(left)
        )
    return bool(left == right)


zones = st.none() | st.timedeltas(
    min_value=dt.timedelta(hours=-23), max_value=dt.timedelta(hours=23)
).map(dt.timezone) | st.just(dt.UTC) | st.just(dt.timezone(dt.timedelta(hours=1), "CET"))
hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.times()
    | st.datetimes(timezones=zones)
    | st.timedeltas()
    | st.uuids()
    | st.sampled_from([*Colour, *Level, Flags.A, Flags.A | Flags.B])
    | st.builds(Point, st.floats(allow_nan=False), st.floats(allow_nan=False)),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
names = st.text(max_size=6) | st.sampled_from(["$tuple", "$escape", "$object", "$", "$dict"])
values = st.recursive(
    hashable | st.floats() | st.binary().map(bytearray),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(names, inner, max_size=3)
    | st.dictionaries(hashable, inner, max_size=3)
    | st.sets(hashable, max_size=3)
    | st.builds(Item, st.text(), st.decimals(allow_nan=False), st.sets(st.text(), max_size=2)),
    max_leaves=12,
)


@given(values)
def test_what_comes_back_is_what_went_in(value: Any) -> None:
    assert exactly_equal(codec.loads(codec.dumps(value)), value)


@given(values)
def test_the_text_is_strict_json(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(codec.dumps(value), parse_constant=refuse)


def test_plain_data_stays_readable() -> None:
    data = {"count": 7, "price": 1.0, "name": "007", "list": [None, True, {}], "nested": {"$a": 1, "b": []}}
    assert json.loads(codec.dumps(data)) == data


def test_equal_sets_have_equal_text() -> None:
    assert codec.dumps(set("abcdefgh")) == codec.dumps(set("hgfedcba"))


def test_a_field_that_is_new_takes_its_default() -> None:
    name = f"{Item.__module__}:Item"
    item = codec.loads(json.dumps({"$object": [name, {"name": "x", "price": {"$decimal": "1.50"}}]}))
    assert item == Item("x", Decimal("1.50"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ('{"$nonsense": 1}', "unknown tag"),
        ('{"$datetime": "yesterday"}', "faulty"),
        ('{"$object": ["nowhere:Thing", {}]}', "not there"),
        ('{"$object": ["os:system", {}]}', "not there"),
        ('{"$object": ["subprocess:Popen", {}]}', "no longer a dataclass"),
        ('{"$enum": ["decimal:Decimal", "1"]}', "no longer an Enum"),
        ('{"$set": [[1]]}', "faulty"),
        ('{"$tuple": 3}', "faulty"),
    ],
)
def test_corrupt_text_is_refused_and_nothing_is_run(text: str, says: str) -> None:
    with pytest.raises(codec.Corrupt, match=says):
        codec.loads(text)


def test_what_cannot_be_kept_is_named_by_its_path() -> None:
    with pytest.raises(codec.UnsupportedType, match=r"state\.orders\[3\]\.lock is a builtins\.object"):
        codec.dumps({"orders": [1, 2, 3, {"lock": object()}]})


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(codec.UnsupportedType, match="holds itself"):
        codec.dumps(value)


@pytest.mark.parametrize(("depth", "kept"), [(codec.DEPTH_MAX, True), (codec.DEPTH_MAX + 1, False)])
def test_depth_has_a_limit(depth: int, kept: bool) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    if kept:
        assert codec.loads(codec.dumps(value)) == value
    else:
        with pytest.raises(codec.UnsupportedType, match="nests more than"):
            codec.dumps(value)


def test_local_classes_and_named_time_zones_are_refused_with_a_remedy() -> None:
    @dataclass
    class Local:
        x: int

    with pytest.raises(codec.UnsupportedType, match="move it to the module"):
        codec.dumps(Local(1))

    class Berlin(dt.tzinfo):
        def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
            return dt.timedelta(hours=1)

    with pytest.raises(codec.UnsupportedType, match=r"use datetime\.timezone"):
        codec.dumps(dt.datetime(2026, 1, 1, tzinfo=Berlin()))


def test_uuid_and_big_numbers_are_exact() -> None:
    value = [uuid.UUID(int=5), 10**40, Decimal("1.10"), 0.1 + 0.2, -0.0]
    assert exactly_equal(codec.loads(codec.dumps(value)), value)
