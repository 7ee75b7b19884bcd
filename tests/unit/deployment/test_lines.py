"""The line that is reported is the one where the key stands, in documents nobody has written by hand."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from plexspaces_runtime.deployment.lines import KeyPath, Lines

# What would mislead a reader that does not know strings from structure.
TEXTS = st.one_of(
    st.sampled_from(["[table]", "[[t]]", "a = 1", "# no comment", "]", "}", '"', "'", "\\", "\n[x]\n", '"""', "a\nb"]),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8),
)
BARE = st.sampled_from(["name", "a", "b-c", "d_e", "1"])
NAMES = st.one_of(BARE, TEXTS.filter(lambda text: "\n" not in text))
TIMES = ("1979-05-27 07:32:00", "07:32:00")
SCALARS = st.one_of(TEXTS, st.integers(-9, 9), st.booleans(), st.just(1.5), st.sampled_from(TIMES))


class Writer:
    """Writes a document and notes where it puts each key."""

    def __init__(self, choose: Any) -> None:
        self.choose = choose
        self.text = ""
        self.expected: dict[KeyPath, int] = {}

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1

    def key(self, name: str) -> str:
        bare = name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
        return name if bare and self.choose(st.booleans()) else json.dumps(name, ensure_ascii=False)

    def blank(self) -> None:
        for _ in range(self.choose(st.integers(0, 2))):
            self.text += self.choose(st.sampled_from(["\n", "  \n", "# [comment] = \"'\n", "\t# ]]\n"]))

    def scalar(self, value: Any) -> None:
        if value in TIMES:
            self.text += value
        elif isinstance(value, str) and "\n" in value and "'''" not in value and self.choose(st.booleans()):
            self.text += f"'''\n{value}'''"
        elif isinstance(value, str) and self.choose(st.booleans()):
            inside = json.dumps(value, ensure_ascii=False)[1:-1].replace("\\n", "\n")
            self.text += f'"""{inside}"""'
        else:
            self.text += json.dumps(value, ensure_ascii=False)

    def value(self, path: KeyPath, depth: int) -> None:
        kind = self.choose(st.sampled_from(["scalar", "scalar", "array", "table"] if depth else ["scalar"]))
        if kind == "array":
            self.text += "["
            for position in range(self.choose(st.integers(0, 3))):
                self.blank()
                self.expected[*path, position] = self.line
                self.value((*path, position), depth - 1)
                self.blank()
                self.text += ", "
            self.text += "]"
        elif kind == "table":
            self.text += "{ "
            for position, name in enumerate(self.choose(st.lists(NAMES, max_size=3, unique=True))):
                self.text += ", " if position else ""
                self.expected[*path, name] = self.line
                self.text += f"{self.key(name)} = "
                self.value((*path, name), 0)
            self.text += " }"
        else:
            self.scalar(self.choose(SCALARS))

    def pairs(self, path: KeyPath, names: list[str]) -> None:
        for name in names:
            self.blank()
            self.expected[*path, name] = self.line
            self.text += f"{self.choose(st.sampled_from(['', '  ']))}{self.key(name)} = "
            self.value((*path, name), 2)
            self.text += "\n"

    def table(self, path: KeyPath, written: str, depth: int) -> None:
        names = self.choose(st.lists(NAMES, max_size=5, unique=True))
        here = self.choose(st.integers(0, len(names)))
        self.pairs(path, names[:here])
        for name in names[here:] if depth else []:
            below = f"{written}.{self.key(name)}" if written else self.key(name)
            is_array = self.choose(st.booleans())
            for position in range(self.choose(st.integers(1, 3)) if is_array else 1):
                self.blank()
                inner: KeyPath = (*path, name, position) if is_array else (*path, name)
                self.expected.setdefault((*path, name), self.line)
                self.expected[inner] = self.line
                self.text += f"[[ {below} ]] # ]\n" if is_array else f"[{below}]\n"
                self.table(inner, below, depth - 1)


@given(st.data())
@settings(max_examples=75, deadline=None)
def test_every_key_of_any_document_has_its_line(data: st.DataObject) -> None:
    writer = Writer(data.draw)
    writer.table((), "", 3)
    tomllib.loads(writer.text)
    lines = Lines(writer.text)
    assert {path: lines.of(path) for path in writer.expected} == writer.expected
    windows = Lines(writer.text.replace("\n", "\r\n"))
    assert {path: windows.of(path) for path in writer.expected} == writer.expected


def test_a_key_that_is_not_there_has_the_line_of_what_would_hold_it() -> None:
    lines = Lines("a = 1\n[b]\n[[b.c]]\n[[b.c]]\nd = { e = 1 }\n")
    assert lines.of(("b", "c", 1, "x")) == 4
    assert lines.of(("b", "c", 1, "d", "f", 3)) == 5
    assert lines.of(("b", "x")) == 2
    assert lines.of(("x",)) == lines.of(()) == 1


def test_dotted_keys_and_strings_with_quotes_at_their_end() -> None:
    text = "\"a.b\" . c = \"\"\"x\n\"\"\"\"\"\nd.'e' = '''y'''''\nf = ''\ng = \"\\\\\"\n"
    assert tomllib.loads(text)["d"] == {"e": "y''"}
    lines = Lines(text)
    assert [lines.of(path) for path in [("a.b",), ("a.b", "c"), ("d", "e"), ("f",), ("g",)]] == [1, 1, 3, 4, 5]
