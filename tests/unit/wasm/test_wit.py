"""The WIT parser: our package as it is, and refusals that name file and line."""

from __future__ import annotations

import pytest

from plexspaces_runtime.wasm import wit
from plexspaces_runtime.wasm.wit import BOOL, STRING, U32, U64, Enum, List, Option, Record, Result, Tuple, WitError
from plexspaces_runtime.witfiles import wit_files

HEAD = "package a:b@1.2.3;\n"


def parse(body: str, world: str = "world w {}") -> wit.Package:
    return wit.parse([("t.wit", HEAD + body), ("world.wit", HEAD + world)], "w")


def only(body: str) -> wit.Function:
    functions = parse(f"interface i {{ {body} }}").interfaces["i"].functions
    assert len(functions) == 1
    return next(iter(functions.values()))


class TestOurPackage:
    def test_its_name_and_version(self) -> None:
        assert wit.load().qualified("messaging") == "plexspaces:actor/messaging@0.1.0"

    def test_one_interface_a_file(self) -> None:
        assert set(wit.load().interfaces) == {file.stem for file in wit_files()} - {"world"}

    def test_the_world_imports_every_interface_that_has_functions(self) -> None:
        package = wit.load()
        with_functions = {interface.name for interface in package.interfaces.values() if interface.functions}
        assert set(package.world.imports) == with_functions

    def test_handle_takes_the_envelope_and_returns_an_optional_reply_or_a_failure(self) -> None:
        handle = wit.load().world.exports["handle"]
        ((name, envelope),) = handle.params
        assert name == "envelope"
        assert isinstance(envelope, Record)
        assert [field for field, _ in envelope.fields] == ["id", "kind", "op", "payload", "sender", "context"]
        assert isinstance(handle.result, Result)
        assert handle.result.ok == Option(STRING)
        assert isinstance(handle.result.err, Record)
        assert handle.result.err.name == "failure"

    def test_every_function_is_documented_or_follows_one_that_is(self) -> None:
        ask = wit.load().interfaces["messaging"].functions["ask"]
        assert ask.docs.startswith("Send and wait for the reply.")
        assert "Errors:" in ask.docs

    def test_it_is_read_once(self) -> None:
        assert wit.load() is wit.load()


class TestTypes:
    @pytest.mark.parametrize(
        ("written", "type_"),
        [
            ("bool", BOOL),
            ("list<string>", List(STRING)),
            ("option<list<u32>>", Option(List(U32))),
            ("tuple<bool, u64,>", Tuple((BOOL, U64))),
            ("result", Result(None, None)),
            ("result<u32>", Result(U32, None)),
            ("result<_, string>", Result(None, STRING)),
            ("result<u32, string>", Result(U32, STRING)),
        ],
    )
    def test_built_in(self, written: str, type_: wit.Type) -> None:
        assert only(f"f: func(x: {written});").params == (("x", type_),)

    def test_text_is_how_it_is_written(self) -> None:
        for written in ("list<option<u8>>", "result<_, string>", "result<u32>", "result", "tuple<f32, char>"):
            assert wit.text(only(f"f: func(x: {written});").params[0][1]) == written
        assert wit.text(None) == "_"

    def test_declared_later(self) -> None:
        function = only("f: func() -> r; record r { a: e, } enum e { one, two }")
        assert function.result == Record("r", (("a", Enum("e", ("one", "two"))),))

    def test_aliases_disappear(self) -> None:
        assert only("type t = option<string>; f: func() -> t;").result == Option(STRING)

    def test_used_from_another_interface_and_file(self) -> None:
        package = wit.parse(
            [
                ("a.wit", HEAD + "interface a { use b.{t}; f: func() -> t; }"),
                ("b.wit", HEAD + "interface b { use c.{t}; }  interface c { enum t { x } }"),
                ("w.wit", HEAD + "world w { import a; }"),
            ],
            "w",
        )
        assert package.interfaces["a"].functions["f"].result == Enum("t", ("x",))
        assert package.world.imports == ("a",)

    def test_comments_of_all_kinds(self) -> None:
        assert only("/* one\n two */ // three\n /// Says so.\n /// Twice.\n f: func();").docs == "Says so.\nTwice."

    def test_a_percent_sign_quotes_a_keyword(self) -> None:
        assert only("f: func(%list: u32);").params == (("list", U32),)


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "line", "says"),
        [
            ("interface i {\n\n resource r; }", 4, "outside the subset"),
            ("interface i { variant v { a } }", 2, "outside the subset"),
            ("interface i { flags v { a } }", 2, "outside the subset"),
            ("interface i { f: async func(); }", 2, "asynchronous"),
            ("interface i { use a:c/d.{e}; }", 2, "of this package"),
            ("interface i { use j.{a as b}; }", 2, "renaming"),
            ("interface i { use j.{a}; }", 2, "no interface 'j'"),
            ("interface i { f: func(x:\n\n foo); }", 4, "'foo'"),
            ("interface i { f: func(x: list<u8, u8>); }", 2, "does not take 2"),
            ("interface i { f: func(x: option); }", 2, "'option'"),
            ("interface i { record r { a: r } f: func() -> r; }", 2, "contains itself"),
            ("interface i { record r { a: u8, a: u8 } }", 2, "second field"),
            ("interface i { enum e { a, a } }", 2, "second case"),
            ("interface i { enum e { a } record e { a: u8 } }", 2, "second type"),
            ("interface i { f: func(); f: func(); }", 2, "second function"),
            ("interface i { f: func();", 2, "the file ends"),
            ("interface i { f: func() }", 2, "expected `;`"),
            ("interface i {}\ninterface i {}", 3, "exists at"),
            ("include x;", 2, "expected `interface` or `world`"),
            ('interface i { "x" }', 2, "does not begin anything"),
        ],
    )
    def test_with_file_and_line(self, body: str, line: int, says: str) -> None:
        with pytest.raises(WitError) as caught:
            parse(body)
        assert str(caught.value).startswith(f"t.wit:{line}: ")
        assert says in str(caught.value)

    def test_two_packages(self) -> None:
        with pytest.raises(WitError, match=r"^b.wit:1: package 'c:d@1.0.0'"):
            wit.parse([("a.wit", HEAD), ("b.wit", "package c:d@1.0.0;")])

    def test_no_version(self) -> None:
        with pytest.raises(WitError, match=r"^a.wit:1: a package needs a version"):
            wit.parse([("a.wit", "package a:b;")])

    def test_no_such_world(self) -> None:
        with pytest.raises(WitError, match="no world 'other'"):
            wit.parse([("a.wit", HEAD)], "other")

    def test_an_import_of_nothing(self) -> None:
        with pytest.raises(WitError, match=r"^world.wit:2: there is no interface 'x'"):
            parse("", "world w { import x; }")
