"""What another version of an actor type newly asks for, and the smallest list of capabilities for what was observed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ..actors.capabilities import ALL, CAPABILITIES, Grant, Layer, Pattern, added, written

# More names than this that begin alike become a pattern.
ALIKE_MAX: Final = 3

_TAKES_NAMES: Final = {each.name for each in CAPABILITIES if each.names}
_ALWAYS: Final = frozenset({"clock", "random", "logging"})
# Where one name of a kind ends and the next one's own part begins: behind the last separator, or before a number.
_KIND: Final = re.compile(r"(.*[-_.:@])[^-_.:@]*|(.*?[^0-9])[0-9]+", re.DOTALL)


# -- what a version asks for -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CapabilityNews:
    """What differs between a version of an actor type and the one before; before the first there was the default.

    Attributes:
        granted: the entries that it has now.
        newly_imports: interfaces that its component imports and the one before did not; none for the first.
        newly_granted: what it may do now and might not before, as entries.
        no_longer_granted: the reverse; none for the first.
        not_granted: interfaces that its component imports although nothing of them is granted; of a component that
            imports all there are, as those of the SDK do, that says nothing, and none are named.
    """

    granted: tuple[str, ...] = ()
    newly_imports: tuple[str, ...] = ()
    newly_granted: tuple[str, ...] = ()
    no_longer_granted: tuple[str, ...] = ()
    not_granted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GrantReport:
    """What an actor type may do, was refused and was seen to do.

    Attributes:
        granted: its entries; empty if it is not deployed.
        refused: how often it was refused what, since it was deployed last.
        observed: what it uses is being kept.
        calls: how often it has used what since then, by capability.
        smallest: the shortest list of entries that would allow that.
        line: the same, as a line of app-config.toml; "" while nothing is observed.
        not_all_names: capabilities that it used for more names than are kept, so that `smallest` grants them for any.
    """

    actor_type: str
    granted: tuple[str, ...]
    refused: Mapping[str, int]
    observed: bool
    calls: Mapping[str, int]
    smallest: tuple[str, ...]
    line: str
    not_all_names: tuple[str, ...]


def news(
    before: tuple[Collection[str], Layer] | None, imports: Collection[str], layer: Layer, interfaces: Collection[str]
) -> CapabilityNews:
    """What is to be told of a version.

    Args:
        before: imports and grants of the version before; None for the first.
        imports: the interfaces that the component imports, in full or by their names.
        interfaces: all there are.
    """
    names = {interface_name(each) for each in imports}
    old_names, old_layer = (
        (names, Layer.of(layer.origin, None))
        if before is None
        else ({interface_name(each) for each in before[0]}, before[1])
    )
    asked = () if names >= set(interfaces) else names - _ALWAYS
    # The one capability that is not called like its interface.
    held = {"lifecycle" if each == "spawn" else each.partition(":")[0] for each in layer.held}
    return CapabilityNews(
        granted=layer.entries,
        newly_imports=tuple(sorted(names - old_names)),
        newly_granted=added(old_layer, layer),
        no_longer_granted=() if before is None else added(layer, old_layer),
        not_granted=tuple(sorted(set(asked) - held)),
    )


def interface_name(import_: str) -> str:
    """`plexspaces:actor/keyvalue@0.1.0` is `keyvalue`."""
    return import_.rpartition("/")[2].partition("@")[0]


# -- what was observed -------------------------------------------------------------------------------------


def smallest(calls: Iterable[str], names: Mapping[str, Collection[str]], more: Collection[str]) -> tuple[str, ...]:
    """The shortest list of entries that allows what was used, with patterns where many names begin alike.

    Args:
        calls: the capabilities that were used.
        names: by capability, what for; prefixes end with `**`.
        more: capabilities that were used for more names than are known: they are granted for any.
    """
    grants: set[Grant] = set()
    for capability in calls:
        used = names.get(capability, ())
        if capability not in _TAKES_NAMES or capability in more or not used or "**" in used:
            grants.add((capability, ""))
        else:
            grants.update((capability, pattern) for pattern in collapse(used))
    return written(grants)


def collapse(names: Collection[str]) -> tuple[str, ...]:
    """Names, or patterns in place of more than `ALIKE_MAX` that begin alike: `/sessions/*`, `tasks-*`.

    A name counts by its parts between `/`; `*` in a pattern is one part or the rest of one.
    """
    patterns = _collapse({tuple(name.split("/")) for name in names}, at_top=True)
    found = ["/".join(parts) for parts in patterns]
    compiled = [Pattern(each) for each in found]
    return tuple(sorted(one.text for one in compiled if not any(_says_more(other, one) for other in compiled)))


def _says_more(other: Pattern, one: Pattern) -> bool:
    """Whether a pattern makes another one superfluous; of two that allow the same, the first one stays."""
    return other is not one and other.covers(one) and (other.text < one.text or not one.covers(other))


def _collapse(names: set[tuple[str, ...]], *, at_top: bool) -> set[tuple[str, ...]]:
    by_head: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        by_head.setdefault(name[0], set()).add(name[1:])
    kinds: dict[str, list[str]] = {}
    for head in by_head:
        kinds.setdefault(_kind(head), []).append(head)
    merged: dict[str, set[tuple[str, ...]]] = {}
    own: list[str] = []
    for kind, heads in kinds.items():
        if kind and len(heads) > ALIKE_MAX:
            merged.setdefault(f"{kind}*", set()).update(*(by_head[head] for head in heads))
        else:
            own += heads
    if len(own) > ALIKE_MAX and not at_top:
        # They have nothing in common but what they are below.
        merged.setdefault(ALL, set()).update(*(by_head[head] for head in own))
    else:
        merged.update({head: by_head[head] for head in own})
    found: set[tuple[str, ...]] = set()
    for head, tails in merged.items():
        if () in tails:
            found.add((head,))
        if rest := tails - {()}:
            # The part before the first '/' of a path is empty, and what comes next is all the same at the top.
            found.update((head, *tail) for tail in _collapse(rest, at_top=at_top and not head))
    return found


def _kind(part: str) -> str:
    if ALL in part:
        return ""
    match = _KIND.fullmatch(part)
    return (match[1] or match[2] or "") if match else ""


def toml_line(entries: Iterable[str]) -> str:
    """Entries as a line of app-config.toml."""
    return f"capabilities = [{', '.join(json.dumps(each, ensure_ascii=False) for each in entries)}]"
