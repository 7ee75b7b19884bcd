"""What an actor may ask of the host: entries of `capabilities` read, matched against names, narrowed and compared.

An entry names a capability, and perhaps a pattern for the names that it is for: `messaging`, `streams:read`,
`http:llm-*`.  A host function needs one capability, for the names in its arguments; the tables below say which.

What one piece of configuration grants is a `Layer`.  An actor that another one spawned may do what its own type's layer
*and* its parent's allow: `Grants` is a set of layers, all of which must allow a call.  So narrowing is the union of two
sets: exact whatever the patterns are, and it cannot give anything away.  Patterns themselves are never intersected.

Patterns are matched by running all places in the pattern at once, one bit each (Thompson 1968), so the time is linear
in the name and a guest cannot choose a name that makes it more.  The same machine, fed with another pattern's wildcards
as if they were characters, tells whether one pattern allows all that the other does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final

from ..errors import InvalidArgument

ENTRIES_MAX: Final = 256
PATTERN_CHARS_MAX: Final = 256
# No store takes longer names, so a longer one is matched by no pattern.
NAME_CHARS_MAX: Final = 1_024

DEFAULT: Final = "default"
ALL: Final = "*"


@dataclass(frozen=True, slots=True)
class Capability:
    """One capability, as its documentation sees it.

    Attributes:
        by_default: an actor has it that is granted nothing in particular.
        names: what patterns are matched against, "" if it takes none.
        parts: the capabilities that it stands for, if it is only another word for them.
    """

    name: str
    by_default: bool
    names: str
    doc: str
    parts: tuple[str, ...] = ()


CAPABILITIES: Final = (
    Capability("messaging", True, "", "Ask, send, and reply to other actors of the namespace."),
    Capability("lifecycle", True, "", "Stop, link and monitor other actors."),
    Capability("spawn", False, "actor type", "Start actors; each may do at most what its parent may."),
    Capability("timers", True, "", "Messages to itself, later."),
    Capability("process-groups", True, "group", "Join and leave groups, read them, and send to them."),
    Capability("registry", True, "", "Find actors by what they are."),
    Capability("registry:write", False, "", "Set its own labels, by which others find it."),
    Capability("keyvalue", True, "", "Its own values by key."),
    Capability("keyvalue:shared", False, "", "The values of its type, where that has `shared_keys`."),
    Capability("tuplespace", True, "", "The tuple space of the namespace."),
    Capability("channels", True, "channel", "Send to durable queues, and receive from them."),
    Capability("locks", True, "lock", "Leases by name."),
    Capability("blobs", True, "blob", "Read, write, delete and list blobs."),
    Capability("streams", True, "path", "Both of the next two.", ("streams:read", "streams:append")),
    Capability("streams:read", True, "path", "Read event streams, and be told what is new in them."),
    Capability("streams:append", True, "path", "Append to event streams."),
    Capability("http", False, "link", "Requests through service links."),
    Capability("workflow", True, "", "Steps, sleeps, promises and signals of a run."),
    Capability("clock", True, "", "Always granted."),
    Capability("random", True, "", "Always granted."),
    Capability("logging", True, "", "Always granted."),
)

_BY_NAME: Final = {each.name: each for each in CAPABILITIES}
_ATOMS: Final = tuple(each.name for each in CAPABILITIES if not each.parts)
# Harmless to everybody but the actor itself, and no actor works without them.
_ALWAYS: Final = frozenset({"clock", "random", "logging"})


# -- what host functions need ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Need:
    """What a host function needs.

    Attributes:
        capability: which one.
        names: the names in its arguments; None if it has none.
        below: these are prefixes: the function is about all names that begin so.
    """

    capability: str
    names: Callable[[Sequence[Any]], Iterable[str]] | None = None
    below: bool = False


def _first(arguments: Sequence[Any]) -> Iterable[str]:
    return (arguments[0],)


def _first_of_record(arguments: Sequence[Any]) -> Iterable[str]:
    return (arguments[0][0],)


def _third(arguments: Sequence[Any]) -> Iterable[str]:
    links: Iterable[str] = arguments[2]
    return links


# Where it is not simply the capability called like the interface, whatever the arguments.
_NEEDS: Final[dict[tuple[str, str], Need]] = {
    ("lifecycle", "spawn"): Need("spawn", _first_of_record),
    ("registry", "set-label"): Need("registry:write"),
    ("streams", "append"): Need("streams:append", _first),
    ("streams", "read"): Need("streams:read", _first),
    ("streams", "subscribe"): Need("streams:read", _first),
    ("streams", "unsubscribe"): Need("streams:read"),
    ("http", "fetch"): Need("http", _first_of_record),
    ("http", "fetch-stream"): Need("http", _first_of_record),
    ("http", "register-credential"): Need("http", _third),
    **{("channels", name): Need("channels", _first) for name in ("send", "receive", "ack", "nack", "extend", "depth")},
    ("channels", "subscribe"): Need("channels", _first),
    **{("locks", name): Need("locks", _first) for name in ("acquire", "renew", "release")},
    **{("blobs", name): Need("blobs", _first) for name in ("put", "get", "get-range", "stat", "delete")},
    ("blobs", "list-blobs"): Need("blobs", _first, below=True),
    **{
        ("process-groups", name): Need("process-groups", _first)
        for name in ("join", "leave", "members", "first", "broadcast")
    },
}

# About nobody but the caller, and without room for an error in their result.
_UNCONDITIONAL: Final = frozenset(
    {
        ("lifecycle", "self-id"),
        ("lifecycle", "trap-exit"),
        ("timers", "cancel"),
        ("workflow", "cancelled"),
        ("workflow", "publish-state"),
    }
)


def need_of(interface: str, function: str) -> Need | None:
    """What a function of the contract needs; None if nothing."""
    if interface in _ALWAYS or (interface, function) in _UNCONDITIONAL:
        return None
    return _NEEDS.get((interface, function)) or Need(interface)


def capability_of(need: Need, *, shares_keys: bool) -> str:
    """What a need comes to for an actor that shares its keys with its type, or does not."""
    return "keyvalue:shared" if shares_keys and need.capability == "keyvalue" else need.capability


# -- patterns ----------------------------------------------------------------------------------------------

# Longer than one character, so that no character of a name is taken for one.
_STAR: Final = "*?"
_DEEP: Final = "**"


class Pattern:
    """A pattern for names: `*` is any number of characters other than `/`, `**` any number of any characters."""

    __slots__ = ("_any", "_deep", "_end", "_literal", "_places", "_prefix", "_star", "text", "tokens")

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self._literal = None if ALL in text else text
        # Most patterns are names with a wildcard at the end, and those are matched in no time.
        self._prefix = "".join(self.tokens[:-1]) if ALL in text and ALL not in text.rstrip(ALL) else None
        # A place in the pattern is a bit: set in `_places[c]` where the character c goes on to the next place.
        self._places: dict[str, int] = {}
        self._star = self._deep = 0
        for number, token in enumerate(self.tokens):
            if token == _DEEP:
                self._deep |= 1 << number
            elif token == _STAR:
                self._star |= 1 << number
            else:
                self._places[token] = self._places.get(token, 0) | 1 << number
        self._any = self._star | self._deep
        self._end = 1 << len(self.tokens)

    def matches(self, name: str) -> bool:
        """Whether it allows a name."""
        if self._literal is not None:
            return name == self._literal
        if len(name) > NAME_CHARS_MAX:
            return False
        if self._prefix is not None:
            return name.startswith(self._prefix) and (bool(self._deep) or "/" not in name[len(self._prefix) :])
        return self._accepts(name)

    def covers(self, other: Pattern) -> bool:
        """Whether it certainly allows every name that `other` allows."""
        return self._accepts(other.tokens)

    def covers_below(self, prefix: str) -> bool:
        """Whether it certainly allows every name that begins with `prefix`."""
        return len(prefix) <= NAME_CHARS_MAX and self._accepts((*prefix, _DEEP))

    def _accepts(self, tokens: Iterable[str]) -> bool:
        # A wildcard may also stand for nothing, so its place and the next one are held together.
        held = 1 | (self._any & 1) << 1
        for token in tokens:
            stays = self._deep if token in ("/", _DEEP) else self._any
            held = (held & stays) | (held & self._places.get(token, 0)) << 1
            if not held:
                return False
            held |= (held & self._any) << 1
        return bool(held & self._end)


def _tokens(text: str) -> tuple[str, ...]:
    tokens: list[str] = []
    position = 0
    while position < len(text):
        if text[position] != ALL:
            tokens.append(text[position])
            position += 1
            continue
        begin = position
        while position < len(text) and text[position] == ALL:
            position += 1
        tokens.append(_STAR if position - begin == 1 else _DEEP)
    return tuple(tokens)


# -- entries -----------------------------------------------------------------------------------------------

# A capability and the pattern it is granted for, "" for any name.
Grant = tuple[str, str]


def parse_entries(value: object) -> frozenset[str]:
    """The entries of a `capabilities` list, checked.

    Raises:
        InvalidArgument: it is no list of texts, or entries are not possible; the message tells of all of them.
    """
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        shown = repr(value)[:80]
        raise InvalidArgument(f'{shown} is not a list of texts: write one such as ["messaging", "keyvalue"]')
    if len(value) > ENTRIES_MAX:
        raise InvalidArgument(f"{len(value)} capabilities are too many: at most {ENTRIES_MAX}; use patterns")
    issues = []
    for entry in value:
        try:
            _expand(entry)
        except InvalidArgument as error:
            issues.append(error.message)
    if issues:
        raise InvalidArgument("; ".join(issues))
    return frozenset(value)


def entry_text(capability: str, pattern: str = "") -> str:
    """How a grant is written."""
    return f"{capability}:{pattern}" if pattern else capability


def _expand(entry: str) -> frozenset[Grant]:
    if entry == ALL:
        return _EVERYTHING
    if entry == DEFAULT:
        return _BY_DEFAULT
    head, colon, rest = entry.partition(":")
    part, _, behind = rest.partition(":")
    if f"{head}:{part}" in _BY_NAME:
        # No name of something can be meant: the only parts of a capability with names are those of streams, whose
        # names begin with '/'.
        head, colon, rest = f"{head}:{part}", rest[len(part) :][:1], behind
    known = _BY_NAME.get(head)
    if known is None:
        raise InvalidArgument(f"there is no capability {entry[:60]!r}; {_nearest(head)}")
    if colon:
        _check_pattern(known, entry, rest)
    return frozenset((name, rest) for name in known.parts or (known.name,))


def _check_pattern(known: Capability, entry: str, pattern: str) -> None:
    if not known.names:
        parts = [each.name for each in CAPABILITIES if each.name.startswith(f"{known.name}:")]
        there = f"write {known.name!r}" + (f", or {parts[0]!r}" if parts else "")
        raise InvalidArgument(f"capability {entry[:60]!r}: {known.name} takes no pattern; {there}")
    if not pattern or len(pattern) > PATTERN_CHARS_MAX or not pattern.isprintable():
        raise InvalidArgument(
            f"capability {entry[:60]!r}: a pattern has 1 to {PATTERN_CHARS_MAX} printable characters; "
            f"{known.name!r} alone is for any {known.names}"
        )
    if known.names == "path" and pattern[0] not in "/*":
        raise InvalidArgument(
            f"capability {entry[:60]!r}: paths begin with '/': write {entry_text(known.name, '/' + pattern)[:60]!r}"
        )


def _nearest(name: str) -> str:
    names = [*_BY_NAME, DEFAULT]
    if close := get_close_matches(name.lower(), names, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    return "there are " + ", ".join(names)


_EVERYTHING: Final = frozenset((name, "") for name in _ATOMS)
_BY_DEFAULT: Final = frozenset((name, "") for name in _ATOMS if _BY_NAME[name].by_default)
_NOTHING_NEEDED: Final = frozenset((name, "") for name in _ALWAYS)


def written(grants: Iterable[Grant]) -> tuple[str, ...]:
    """The shortest entries that grant just this."""
    rest = frozenset(grants)
    if rest >= _EVERYTHING:
        return (ALL,)
    start: tuple[str, ...] = ()
    if rest >= _BY_DEFAULT:
        start = (DEFAULT,)
        rest -= _BY_DEFAULT
    rest -= _NOTHING_NEEDED
    entries = []
    for each in CAPABILITIES:
        for pattern in {pattern for name, pattern in rest if each.parts and name == each.parts[0]}:
            if (whole := {(part, pattern) for part in each.parts}) <= rest:
                entries.append(entry_text(each.name, pattern))
                rest -= whole
    return (*start, *sorted([*entries, *(entry_text(*grant) for grant in rest)]))


# -- what an actor may -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layer:
    """What one piece of configuration grants.

    Attributes:
        origin: whose `capabilities` these are, to end a sentence with.
        grants: what it grants.
        entries: the shortest that grant just this.
    """

    origin: str
    grants: frozenset[Grant]
    entries: tuple[str, ...] = field(init=False, compare=False)
    # By capability; none of them where it is granted for any name.
    _patterns: dict[str, tuple[Pattern, ...]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        found: dict[str, tuple[Pattern, ...]] = {}
        for capability, pattern in self.grants:
            if not pattern:
                found[capability] = ()
            elif found.get(capability) != ():
                found[capability] = (*found.get(capability, ()), Pattern(pattern))
        object.__setattr__(self, "_patterns", found)
        object.__setattr__(self, "entries", written(self.grants))

    @classmethod
    def of(cls, origin: str, entries: Iterable[str] | None) -> Layer:
        """What entries grant that `parse_entries` has accepted; None for what is granted where nothing is said."""
        if entries is None:
            return cls(origin, _BY_DEFAULT)
        return cls(origin, frozenset().union(*map(_expand, entries)))

    @property
    def unconditional(self) -> frozenset[str]:
        """What it grants for any name."""
        return frozenset(capability for capability, patterns in self._patterns.items() if not patterns)

    @property
    def held(self) -> frozenset[str]:
        """What it grants for some name at least."""
        return frozenset(self._patterns)

    def allows(self, capability: str, name: str | None, *, below: bool = False) -> bool:
        """Whether a call may be made.

        Args:
            name: what it is about; None if it is about nothing in particular: then it is allowed to whoever may use
                the capability for anything at all.
            below: about everything whose name begins with `name`.
        """
        patterns = self._patterns.get(capability)
        if patterns is None:
            return False
        if not patterns or name is None:
            return True
        return any(each.covers_below(name) if below else each.matches(name) for each in patterns)

    def covers(self, other: Layer) -> bool:
        """Whether it certainly allows all that `other` allows."""
        return all(self.includes(grant) for grant in other.grants)

    def includes(self, grant: Grant) -> bool:
        """Whether it certainly allows all that a grant does."""
        capability, pattern = grant
        patterns = self._patterns.get(capability)
        if patterns is None:
            return False
        return not patterns or (bool(pattern) and any(each.covers(Pattern(pattern)) for each in patterns))

    def line(self, entry: str) -> str:
        """The line of configuration that would also grant `entry`."""
        others = f'"{DEFAULT}", ' if self.grants == _BY_DEFAULT else "..., " if self.grants else ""
        return f"capabilities = [{others}{json.dumps(entry, ensure_ascii=False)}] {self.origin}"


@dataclass(frozen=True, slots=True)
class Grants:
    """What an actor may do: what all of its layers allow.

    Attributes:
        layers: its type's, and of one that was spawned its ancestors'.
        watched: somebody wants to know what it uses: then every call is looked at.
        free: the capabilities whose use needs no further look; "" stands for needing none.
        free_sharing: the same for an actor that shares its keys with its type.
    """

    layers: frozenset[Layer]
    watched: bool = field(default=False, compare=False)
    free: frozenset[str] = field(init=False, compare=False, repr=False)
    free_sharing: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        free = frozenset(_ATOMS)
        for layer in self.layers:
            free &= layer.unconditional
        if self.watched:
            free = frozenset()
        free |= {""}
        own = frozenset({"keyvalue"} if "keyvalue:shared" in free else ())
        object.__setattr__(self, "free", free)
        object.__setattr__(self, "free_sharing", (free - {"keyvalue"}) | own)

    def holds(self, capability: str) -> bool:
        """Whether it may be used for some name at least."""
        known = _BY_NAME.get(capability)
        if known is None:
            return False
        return all(any(part in layer.held for part in known.parts or (capability,)) for layer in self.layers)

    def lacking(self, capability: str, name: str | None, *, below: bool = False) -> list[Layer]:
        """The layers that do not allow a call; see `Layer.allows`."""
        refusing = [each for each in self.layers if not each.allows(capability, name, below=below)]
        return sorted(refusing, key=lambda each: each.origin)

    def covers(self, other: Grants) -> bool:
        """Whether they certainly allow all that `other` allow."""
        return all(
            mine.grants >= _EVERYTHING or any(mine.covers(theirs) for theirs in other.layers) for mine in self.layers
        )


EVERYTHING: Final = Grants(frozenset())
NOTHING: Final = Grants(frozenset({Layer("of nobody", frozenset())}))


@lru_cache(maxsize=1_024)
def intersect(one: Grants, other: Grants) -> Grants:
    """What both allow, as exactly as patterns can say it."""
    kept: list[Layer] = []
    # A layer says nothing if another one grants no more; dropping such keeps the set small however long the line of
    # ancestors is.
    candidates = sorted(one.layers | other.layers, key=lambda each: (each.origin, sorted(each.grants)))
    for number, layer in enumerate(candidates):
        if any(layer.covers(each) for each in kept):
            continue
        if any(layer.covers(each) and not each.covers(layer) for each in candidates[number + 1 :]):
            continue
        kept.append(layer)
    return Grants(frozenset(kept))


def watch(grants: Grants, watched: bool) -> Grants:
    """The same, looked at or not."""
    return grants if grants.watched is watched else Grants(grants.layers, watched)


def added(before: Layer, after: Layer) -> tuple[str, ...]:
    """What `after` grants and `before` does not, as entries."""
    return written(grant for grant in after.grants if not before.includes(grant))
