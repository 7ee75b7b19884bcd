"""Finding the tuples of one namespace by any field, oldest first, and those who wait for a tuple that is new.

For each arity, position and value there is a bucket of tuples in the order they were written.  A pattern is answered
from the smallest bucket of its bound fields, so a million tuples cost no more than a thousand.  A bucket of one, which
most are, is the tuple itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from .patterns import Field, Fields, Pattern

_SPARE: Final = 32


class StoredTuple:
    """A tuple that is there.

    Attributes:
        number: greater than that of every older one.
        text: as it was written.
        live: False once it was taken or has expired.
        expires_ns: monotonic, 0 for never.
        entry: see `agenda.Dated`.
    """

    __slots__ = ("entry", "expires_ns", "fields", "live", "number", "space", "text")

    def __init__(self, number: int, fields: Fields, text: str, space: object, expires_ns: int = 0) -> None:
        self.number = number
        self.fields = fields
        self.text = text
        self.space = space
        self.live = True
        self.expires_ns = expires_ns
        self.entry = 0


class _Bucket:
    """Tuples, oldest first.  Removed ones stay in the list until they are the most; those at the front are skipped.

    Not a dict: the first key of a dict is found by walking past all that were removed before it, and a queue made of
    tuples is always read at the front.
    """

    __slots__ = ("head", "live", "tuples")

    def __init__(self, tuples: list[StoredTuple]) -> None:
        self.tuples = tuples
        self.head = 0
        self.live = len(tuples)

    def __iter__(self) -> Iterator[StoredTuple]:
        for at in range(self.head, len(self.tuples)):
            found = self.tuples[at]
            if found.live:
                yield found

    def add(self, new: StoredTuple) -> None:
        self.tuples.append(new)
        self.live += 1

    def count_removed(self) -> int:
        """One of them is not live any more; how many are."""
        self.live -= 1
        tuples = self.tuples
        if len(tuples) > 2 * self.live + _SPARE:
            self.tuples = [each for each in tuples if each.live]
            self.head = 0
        else:
            while self.head < len(tuples) and not tuples[self.head].live:
                self.head += 1
        return self.live


class TupleIndex:
    """The tuples of one namespace."""

    __slots__ = ("_arities", "_fields", "live")

    def __init__(self) -> None:
        self._arities: dict[int, _Bucket] = {}
        self._fields: dict[int, tuple[dict[Field, StoredTuple | _Bucket], ...]] = {}
        self.live = 0

    def add(self, new: StoredTuple) -> None:
        """Add a tuple that is newer than all others."""
        fields = new.fields
        arity = len(fields)
        bucket = self._arities.get(arity)
        if bucket is None:
            self._arities[arity] = _Bucket([new])
            self._fields[arity] = tuple([{} for _ in fields])
        else:
            bucket.add(new)
        for known, field in zip(self._fields[arity], fields, strict=True):
            there = known.get(field)
            if there is None:
                known[field] = new
            elif there.__class__ is StoredTuple:
                known[field] = _Bucket([there, new])
            else:
                assert isinstance(there, _Bucket)
                there.add(new)
        self.live += 1

    def remove(self, old: StoredTuple) -> None:
        """Remove a tuple that is there."""
        old.live = False
        fields = old.fields
        arity = len(fields)
        self.live -= 1
        if not self._arities[arity].count_removed():
            del self._arities[arity]
            del self._fields[arity]
            return
        for known, field in zip(self._fields[arity], fields, strict=True):
            there = known[field]
            if there is old or (isinstance(there, _Bucket) and not there.count_removed()):
                del known[field]

    def candidates(self, pattern: Pattern) -> tuple[Iterable[StoredTuple], int, bool]:
        """Tuples among which all are that match, oldest first; how many; whether all of them match."""
        bucket = self._arities.get(pattern.arity)
        if bucket is None:
            return (), 0, True
        exact = not pattern.tests
        if not pattern.bound:
            return bucket, bucket.live, exact
        maps = self._fields[pattern.arity]
        best: _Bucket | None = None
        for position, field in pattern.bound:
            there = maps[position].get(field)
            if there is None:
                return (), 0, True
            if isinstance(there, StoredTuple):
                return (there,), 1, False
            if best is None or there.live < best.live:
                best = there
        assert best is not None
        return best, best.live, exact and len(pattern.bound) == 1


class Watch(Protocol):
    """What waits for tuples: `number` is greater than that of those who waited before."""

    number: int
    pattern: Pattern


W = TypeVar("W", bound=Watch)


class WatchIndex(Generic[W]):
    """Patterns that wait for tuples: each is filed under its first bound field, or under its arity."""

    __slots__ = ("_filed", "count")

    def __init__(self) -> None:
        self._filed: dict[tuple[int, int, Field], dict[W, None]] = {}
        self.count = 0

    @staticmethod
    def _place(pattern: Pattern) -> tuple[int, int, Field]:
        return (pattern.arity, *pattern.bound[0]) if pattern.bound else (pattern.arity, -1, None)

    def add(self, watch: W) -> None:
        self._filed.setdefault(self._place(watch.pattern), {})[watch] = None
        self.count += 1

    def discard(self, watch: W) -> None:
        """Forget it; nothing happens if it is not filed."""
        place = self._place(watch.pattern)
        there = self._filed.get(place)
        if there is not None and watch in there:
            del there[watch]
            self.count -= 1
            if not there:
                del self._filed[place]

    def matching(self, fields: Fields) -> list[W]:
        """Who waits for such a tuple; who has waited longest comes first."""
        if not self.count:
            return []
        arity = len(fields)
        found = [watch for watch in self._filed.get((arity, -1, None), ()) if watch.pattern.fits(fields)]
        for position, field in enumerate(fields):
            for watch in self._filed.get((arity, position, field), ()):
                if watch.pattern.fits(fields):
                    found.append(watch)
        found.sort(key=_number)
        return found


def _number(watch: Watch) -> int:
    return watch.number
