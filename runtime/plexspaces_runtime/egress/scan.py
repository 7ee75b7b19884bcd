"""Secret values found in what passes, raw or encoded: a few of them replaced, many of them detected.

A value is looked for raw, in base64 (wherever it begins in the encoded bytes, both alphabets, with and without padding)
and in hexadecimal; and in all these forms behind escapes: percent-encoding and JSON's, wholly or partly, up to three
around one another.  The escapes of a text are opened once for all values; then only plain substrings are searched, so
that no text, however hostile, makes the search take longer than in proportion to its length.

Whoever wants to hide a value from this can: by reversing it, for instance.  It finds what is echoed and logged, not
what is smuggled; that there is nothing to smuggle is the work of never giving a value to a guest.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

# A shorter value would be found in texts that have nothing to do with it.
VALUE_BYTES_MIN: Final = 8
# So many escapes may be around a value, one inside the other.
_DEPTH_MAX: Final = 3
_PERCENT: Final = re.compile(rb"%(?P<percent>[0-9A-Fa-f]{2})")
_JSON: Final = re.compile(
    rb"\\u(?P<high>[Dd][89ABab][0-9A-Fa-f]{2})\\u(?P<low>[Dd][C-Fc-f][0-9A-Fa-f]{2})"
    rb"|\\u(?P<unit>[0-9A-Fa-f]{4})"
    rb"|\\(?P<short>[\"/\\bfnrt])"
)
_KINDS: Final = ((b"\\", _JSON), (b"%", _PERCENT))
_SHORT: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
# The beginning of an escape whose end has not come.
_BEGUN: Final = re.compile(
    rb"(?:%[0-9A-Fa-f]?|\\(?:u(?:[0-9A-Fa-f]{0,3}|[Dd][89ABab][0-9A-Fa-f]{2}(?:\\(?:u[0-9A-Fa-f]{0,3})?)?))?)\Z"
)
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
# Of a text that is searched for many values, so many bytes are looked at in every so many.
_GRAM_BYTES: Final = 4
_STRIDE_BYTES: Final = VALUE_BYTES_MIN - _GRAM_BYTES + 1
# So many near misses are no accident: somebody makes the search expensive.
_CANDIDATES_MAX: Final = 20_000


class TooSuspicious(Exception):
    """A text resembles so many values in so many places that looking closely would take too long."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way in which a value is written where no escapes are left.

    Attributes:
        text: what to look for.
        folded: it is in lower case, and counts in either.
    """

    text: bytes
    folded: bool = False


@lru_cache(maxsize=256)
def forms(value: str) -> tuple[Form, ...]:
    """The ways in which a value is written, the value itself first."""
    raw = value.encode()
    found = {Form(raw): None}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw)
        # Characters that hold bits of what stands before or behind are not the value's alone.
        own = encoded[(0, 2, 3)[before] : (before + len(raw)) * 8 // 6]
        found[Form(own)] = None
        found[Form(own.translate(_URL_SAFE))] = None
    found[Form(raw.hex().encode(), folded=True)] = None
    return tuple(found)


# -- escapes -----------------------------------------------------------------------------------------------


class _View:
    """A text, as it is or with one more kind of escapes opened.

    Attributes:
        text: without the beginning of an escape at its end, where that is asked for.
        cut: that was there.
    """

    __slots__ = ("_kind", "_map", "_parent", "cut", "text")

    def __init__(self, text: bytes, parent: _View | None = None, kind: re.Pattern[bytes] = _JSON) -> None:
        self.text = text
        self.cut = False
        self._parent = parent
        self._kind = kind
        self._map: _Map | None = None

    def back(self, first: int, end: int) -> tuple[int, int]:
        """Where a span of it is in the text as it is."""
        view = self
        while (parent := view._parent) is not None:
            # Made when it is needed: most texts hold escapes, and hardly any holds a value.
            if view._map is None:
                view._map = _Map(parent.text, view._kind)
            first, end = view._map.first(first), view._map.end(end)
            view = parent
        return first, end


def _views(text: bytes, *, whole: bool = True) -> list[_View]:
    """The text, and what it is with escapes opened: of each kind alone, because a value may hold what looks like the
    other, then again, so that they may be mixed and around one another.

    Args:
        whole: nothing comes behind it.
    """
    views = [_View(text)]
    seen = {text}
    first = 0
    for depth in range(_DEPTH_MAX + 1):
        for view in views[first:]:
            first += 1
            if not whole and (begun := _BEGUN.search(view.text)) is not None:
                view.text, view.cut = view.text[: begun.start()], True
            for sign, kind in _KINDS if depth < _DEPTH_MAX else ():
                if sign in view.text and (opened := kind.sub(_opened, view.text)) not in seen:
                    seen.add(opened)
                    views.append(_View(opened, view, kind))
    return views


class _Map:
    """From places of an opened text to those of the text before."""

    __slots__ = ("_after", "_became", "_before")

    def __init__(self, text: bytes, kind: re.Pattern[bytes]) -> None:
        # Of each escape: where what it became begins; and the places where it began and ended itself, the latter with
        # where what it became ends.
        self._became: list[int] = []
        self._before: list[int] = []
        self._after: list[tuple[int, int]] = []
        shorter = 0
        for escape in kind.finditer(text):
            start = escape.start() - shorter
            end = start + len(_opened(escape))
            shorter = escape.end() - end
            self._became.append(start)
            self._before.append(escape.start())
            self._after.append((end, escape.end()))

    def first(self, place: int) -> int:
        """Where the byte at a place came from."""
        at = bisect_right(self._became, place) - 1
        if at < 0:
            return place
        end, after = self._after[at]
        return self._before[at] if place < end else after + place - end

    def end(self, place: int) -> int:
        """Where that ended which the byte before a place came from."""
        at = bisect_right(self._became, place - 1) - 1
        if at < 0:
            return place
        end, after = self._after[at]
        return max(after, after + place - end)


def _opened(escape: re.Match[bytes]) -> bytes:
    match escape.lastgroup:
        case "percent":
            return bytes((int(escape["percent"], 16),))
        case "low":
            high, low = int(escape["high"], 16), int(escape["low"], 16)
            return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)).encode()
        case "unit":
            return chr(int(escape["unit"], 16)).encode("utf-8", "surrogatepass")
        case _:
            return _SHORT.get(escape["short"], escape["short"])


# -- a few values, replaced --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """What a value is called.

    Attributes:
        instead: what stands in its place where it came back.
    """

    name: str
    instead: str


class Redaction:
    """Replaces values wherever they come back; a `Redactor`.

    Args:
        values: what to look for, and what it is called.

    Attributes:
        found: the names of those that came back.
    """

    def __init__(self, values: Mapping[str, Mark]) -> None:
        self.found: set[str] = set()
        # The longest first: one value may be the beginning of another.
        longest = sorted(values.items(), key=lambda item: -len(item[0]))
        self._forms = [(form, mark) for value, mark in longest for form in forms(value)]

    def text(self, text: str) -> str:
        """See `Redactor`."""
        return _text(self.data(_bytes(text)))

    def data(self, data: bytes) -> bytes:
        """See `Redactor`."""
        return self.replace(data, self.spans(data)) if self._forms else data

    def stream(self) -> RedactionStream:
        """See `Redactor`."""
        return RedactionStream(self)

    def replace(self, data: bytes, spans: Iterable[tuple[int, int, Mark]]) -> bytes:
        """The data with other text in place of these spans."""
        pieces, at = [], 0
        for first, end, mark in spans:
            self.found.add(mark.name)
            pieces += [data[at:first], mark.instead.encode()]
            at = end
        return b"".join([*pieces, data[at:]])

    def spans(self, data: bytes) -> list[tuple[int, int, Mark]]:
        """Where values are, from first to last; those that overlap are one."""
        found: list[tuple[int, int, Mark]] = []
        for view in _views(data):
            plain, lower = view.text, view.text.lower()
            for form, mark in self._forms:
                text = lower if form.folded else plain
                at = text.find(form.text)
                while at >= 0:
                    end = at + len(form.text)
                    found.append((*view.back(at, end), mark))
                    at = text.find(form.text, end)
        found.sort(key=lambda span: (span[0], -span[1]))
        merged: list[tuple[int, int, Mark]] = []
        for first, end, mark in found:
            if merged and first < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
            else:
                merged.append((first, end, mark))
        return merged

    def undecided(self, data: bytes) -> int:
        """From where on the data may be the beginning of a value; its length if nothing is."""
        held = len(data)
        for view in _views(data, whole=False):
            plain, lower = view.text, view.text.lower()
            first = len(plain)
            for form, _ in self._forms:
                first = min(first, _beginning(lower if form.folded else plain, form.text))
            if first < len(plain):
                held = min(held, view.back(first, first + 1)[0])
            elif view.cut:
                held = min(held, view.back(first - 1, first)[1] if first else 0)
        # A character of several bytes stays whole.
        while 0 < held < len(data) and data[held] & 0xC0 == 0x80:
            held -= 1
        return held


class RedactionStream:
    """One body under way; a `StreamRedactor`.

    What is kept back is less than two values in their longest form, and nothing where no value can have begun.
    """

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._held = b""

    def feed(self, piece: str) -> str:
        """See `StreamRedactor`."""
        redaction = self._redaction
        data = self._held + _bytes(piece)
        spans = redaction.spans(data)
        cut = redaction.undecided(data)
        # One value may end where another begins, or be the beginning of it.
        cut = min([cut, *(first for first, end, _ in spans if end > cut)])
        self._held = data[cut:]
        return _text(redaction.replace(data[:cut], [span for span in spans if span[1] <= cut]))

    def finish(self) -> str:
        """See `StreamRedactor`."""
        held, self._held = self._held, b""
        return _text(self._redaction.data(held))


def _beginning(text: bytes, form: bytes) -> int:
    """Where the longest end of a text begins that is the beginning of a form, and not all of it."""
    at = text.find(form[:1], max(0, len(text) - len(form) + 1))
    while at >= 0:
        if form.startswith(text[at:]):
            return at
        at = text.find(form[:1], at + 1)
    return len(text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


# -- many values, detected ---------------------------------------------------------------------------------


class Watch:
    """Knows many values, and says which of them are in a text.

    A text is looked at only in strides, a gram at a time.  Each form is known by all grams of its last bytes, as many
    as a stride has, so that one of them is looked at wherever it stands.  Its last, because many keys begin alike.
    """

    def __init__(self) -> None:
        # By gram: form and where in it the gram is, to the names of the values.
        self._by_gram: dict[bytes, dict[tuple[bytes, int], set[str]]] = {}
        self._values: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._values)

    def put(self, name: str, value: str) -> None:
        """Watch for a value under a name, in place of the one before."""
        self.remove(name)
        self._values[name] = value
        for gram, place in _places(value):
            self._by_gram.setdefault(gram, {}).setdefault(place, set()).add(name)

    def remove(self, name: str) -> None:
        """Watch for it no longer, if one did."""
        value = self._values.pop(name, None)
        if value is None:
            return
        for gram, place in _places(value):
            places = self._by_gram[gram]
            places[place].discard(name)
            if not places[place]:
                del places[place]
            if not places:
                del self._by_gram[gram]

    def found_in(self, *texts: bytes) -> set[str]:
        """The names of the values that are in the texts, in any form.

        Raises:
            TooSuspicious
        """
        found: set[str] = set()
        known = self._by_gram
        candidates = 0
        for text in texts if known else ():
            for view in _views(text):
                opened = view.text
                grams = [opened[at : at + _GRAM_BYTES] for at in range(0, len(opened), _STRIDE_BYTES)]
                if known.keys().isdisjoint(grams):
                    continue
                for stride, gram in enumerate(grams):
                    for (form, offset), names in known.get(gram, _NONE).items():
                        candidates += 1
                        if candidates > _CANDIDATES_MAX:
                            raise TooSuspicious
                        first = stride * _STRIDE_BYTES - offset
                        if first >= 0 and opened.startswith(form, first):
                            found |= names
        return found


_NONE: Final[Mapping[tuple[bytes, int], set[str]]] = {}


def _places(value: str) -> Iterator[tuple[bytes, tuple[bytes, int]]]:
    written: dict[bytes, None] = {}
    for form in forms(value):
        written[form.text] = None
        if form.folded:
            written[form.text.upper()] = None
    for text in written:
        for back in range(_STRIDE_BYTES):
            offset = len(text) - _GRAM_BYTES - back
            yield text[offset : offset + _GRAM_BYTES], (text, offset)
