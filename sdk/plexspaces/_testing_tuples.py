"""The test node's tuple space: patterns, waiting takers in their order, subscriptions, leases."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ._testing_base import (
    NS_PER_MS,
    Quotas,
    VirtualClock,
    Waiter,
    check_between,
    contract_error,
    over,
    page_size,
    parse_json,
    size_of,
)

_FIELDS_MAX: Final = 64
_DEPTH_MAX: Final = 64
_LEASE_MS_MAX: Final = 10 * 365 * 24 * 3_600 * 1_000
_OVERHEAD_BYTES: Final = 64

_TYPES: Final[Mapping[str, type]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "dict": dict,
    "null": type(None),
}
_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

Test = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def same(one: Any, other: Any) -> bool:
    """JSON's equality: `1` is `1.0`, and `true` is no number."""
    if _is_number(one) and _is_number(other):
        return bool(one == other)
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    return bool(one == other)


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, list | dict)]:
        depth += 1
        if depth > _DEPTH_MAX:
            raise contract_error("invalid-argument", f"a field nests more than {_DEPTH_MAX} deep")
        level = [each for one in level for each in (one if isinstance(one, list) else one.values())]


def _fields(what: str, text: str) -> list[Any]:
    values = parse_json(f"the {what}", text, any_number=True)
    if not isinstance(values, list) or not 1 <= len(values) <= _FIELDS_MAX:
        raise contract_error("invalid-argument", f"a {what} is a JSON array of 1 to {_FIELDS_MAX} fields")
    return values


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a tuple has to be: its number of fields, those that are given, and what others have to pass."""

    arity: int
    given: Mapping[int, Any]
    tests: Mapping[int, Test]

    def matches(self, fields: list[Any]) -> bool:
        """Whether a tuple is such a one."""
        return (
            len(fields) == self.arity
            and all(same(fields[position], value) for position, value in self.given.items())
            and all(test(fields[position]) for position, test in self.tests.items())
        )


def parse_pattern(text: str) -> Pattern:
    """A pattern as the contract describes it."""
    values = _fields("pattern", text)
    given: dict[int, Any] = {}
    tests: dict[int, Test] = {}
    for position, value in enumerate(values):
        if value is None:
            continue
        if isinstance(value, dict) and any(name.startswith("$") for name in value):
            tests[position] = _test(position, value)
        else:
            _check_depth(value)
            given[position] = value
    return Pattern(len(values), given, tests)


def _test(position: int, value: dict[str, Any]) -> Test:
    match value:
        case {"$type": str(name), **rest} if not rest and name in _TYPES:
            wanted = _TYPES[name]
            return lambda field: type(field) is wanted
        case {"$pred": ["!=", other], **rest} if not rest:
            _check_depth(other)
            return lambda field: not same(field, other)
        case {"$pred": ["prefix", str(start)], **rest} if not rest:
            return lambda field: isinstance(field, str) and field.startswith(start)
        case {"$pred": [str(name), bound], **rest} if not rest and name in _ORDERS:
            order = _ORDERS[name]
            if isinstance(bound, str):
                return lambda field: isinstance(field, str) and order(field, bound)
            if _is_number(bound):
                return lambda field: _is_number(field) and order(field, bound)
    raise contract_error(
        "invalid-argument",
        f"field {position} of the pattern: an object with a '$' is "
        f'{{"$type": name}} with one of {", ".join(_TYPES)}, '
        f'or {{"$pred": [operator, value]}} with one of {", ".join(_ORDERS)} (a number or a text), '
        "prefix (a text) or !=",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Tuple:
    number: int
    text: str
    fields: list[Any]


class TupleWaiter(Waiter):
    """A handler that waits for a tuple."""

    __slots__ = ("pattern", "takes")

    def __init__(self, owner: object, deadline_ns: int, pattern: Pattern, takes: bool) -> None:
        super().__init__(owner, deadline_ns)
        self.pattern = pattern
        self.takes = takes


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    owner: object
    pattern: Pattern
    on_match: Callable[[str], None]
    waiting: Callable[[], int]


class TupleSpace:
    """The tuples, oldest first, and who waits for some, longest first."""

    def __init__(self, clock: VirtualClock, limits: Mapping[str, float], quotas: Quotas) -> None:
        self._clock = clock
        self._limits = limits
        self._quotas = quotas
        self._tuples: dict[int, _Tuple] = {}
        self._waiters: dict[TupleWaiter, None] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._last_tuple = 0
        self._last_subscription = 0

    def write(self, text: str, lease_ms: int | None) -> str:
        """See the contract."""
        size, most = size_of(text), self._limits["tuple_bytes_max"]
        if size > most:
            raise over("tuple_bytes_max", most, f"the tuple has {size} bytes")
        if lease_ms is not None:
            check_between("lease-ms", lease_ms, 1, _LEASE_MS_MAX)
        fields = _fields("tuple", text)
        for field in fields:
            _check_depth(field)
        told = [each for each in self._subscriptions.values() if each.pattern.matches(fields)]
        if any(each.waiting() >= self._limits["tuple_matches_waiting_max"] for each in told):
            raise contract_error("mailbox-full", "an actor that is subscribed to such tuples does not keep up")
        self._quotas.check("tuples_per_tenant_max")
        self._quotas.check_bytes(size + _OVERHEAD_BYTES)
        self._last_tuple += 1
        new = _Tuple(self._last_tuple, text, fields)
        self._tuples[new.number] = new
        self._quotas.add("tuples_per_tenant_max")
        self._quotas.add_bytes(size + _OVERHEAD_BYTES)
        if lease_ms is not None:
            self._clock.call_at(self._clock.elapsed_ns + lease_ms * NS_PER_MS, lambda: self._remove(new))
        for each in told:
            each.on_match(text)
        self._offer(new)
        return f"tuple-{new.number}"

    def _offer(self, new: _Tuple) -> None:
        """Give a new tuple to those who wait for such a one: copies first, then itself."""
        now_ns = self._clock.elapsed_ns
        waiting = [each for each in self._waiters if each.deadline_ns > now_ns and each.pattern.matches(new.fields)]
        for waiter in sorted(waiting, key=lambda each: each.takes):
            del self._waiters[waiter]
            waiter.answer(new.text)
            if waiter.takes:
                self._remove(new)
                return

    def find(self, pattern: str, *, takes: bool) -> str | None:
        """The oldest match, removed or not."""
        found = self._search(parse_pattern(pattern), 1)
        if takes:
            self._remove_all(found)
        return found[0].text if found else None

    def wait(self, owner: object, pattern: str, deadline_ns: int, *, takes: bool) -> TupleWaiter:
        """Wait for a match, in line."""
        waiter = TupleWaiter(owner, deadline_ns, parse_pattern(pattern), takes)
        self._waiters[waiter] = None
        return waiter

    def give_up(self, waiter: TupleWaiter) -> None:
        """Wait no more."""
        self._waiters.pop(waiter, None)

    def find_all(self, pattern: str, limit: int, *, takes: bool) -> list[str]:
        """The oldest matches, removed or not."""
        parsed, count = parse_pattern(pattern), page_size(limit)
        found = self._search(parsed, count)
        if takes:
            self._remove_all(found)
        return [each.text for each in found]

    def count(self, pattern: str) -> int:
        """See the contract."""
        return len(self._search(parse_pattern(pattern), None))

    def living(self, pattern: str | None = None) -> list[list[Any]]:
        """All tuples that match, oldest first."""
        parsed = None if pattern is None else parse_pattern(pattern)
        return [
            json.loads(each.text) for each in self._tuples.values() if parsed is None or parsed.matches(each.fields)
        ]

    def subscribe(
        self, owner: object, pattern: str, on_match: Callable[[str], None], waiting: Callable[[], int]
    ) -> str:
        """Be told of each future match; the subscription's id.

        Args:
            waiting: how many matches its subscriber has yet to hear of.
        """
        parsed, most = parse_pattern(pattern), self._limits["tuple_subscriptions_per_actor_max"]
        if sum(each.owner is owner for each in self._subscriptions.values()) >= most:
            raise over("tuple_subscriptions_per_actor_max", most, "the actor has as many subscriptions as it may")
        self._last_subscription += 1
        made = f"tuple-subscription-{self._last_subscription}"
        self._subscriptions[made] = _Subscription(owner, parsed, on_match, waiting)
        return made

    def unsubscribe(self, subscription_id: str) -> None:
        """End a subscription."""
        self._subscriptions.pop(subscription_id, None)

    def forget(self, owner: object) -> None:
        """The actor has ended: it waits for nothing and is told of nothing."""
        self._waiters = {each: None for each in self._waiters if each.owner is not owner}
        self._subscriptions = {name: each for name, each in self._subscriptions.items() if each.owner is not owner}

    def _search(self, pattern: Pattern, limit: int | None) -> list[_Tuple]:
        """The oldest matches; as many are looked at as may be, unless one given field already singles them out."""
        same_arity = [each for each in self._tuples.values() if len(each.fields) == pattern.arity]
        candidates = same_arity
        for position, value in pattern.given.items():
            narrowed = [each for each in same_arity if same(each.fields[position], value)]
            candidates = narrowed if len(narrowed) < len(candidates) else candidates
        found: list[_Tuple] = []
        looks_at_each = bool(pattern.tests) or len(pattern.given) > 1
        examined_max = self._limits["tuples_examined_max"]
        for examined, each in enumerate(candidates):
            if looks_at_each and examined >= examined_max:
                raise over("tuples_examined_max", examined_max, "no answer among the oldest tuples that were looked at")
            if pattern.matches(each.fields):
                found.append(each)
                if len(found) == limit:
                    break
        return found

    def _remove_all(self, several: list[_Tuple]) -> None:
        for each in several:
            self._remove(each)

    def _remove(self, old: _Tuple) -> None:
        if self._tuples.pop(old.number, None) is not None:
            self._quotas.add("tuples_per_tenant_max", -1)
            self._quotas.add_bytes(-size_of(old.text) - _OVERHEAD_BYTES)
