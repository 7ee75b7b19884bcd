"""A component, written by hand, that does what its messages say: any import with any words, anything with its memory.

A component made from Python can only pass what its language has: text that is UTF-8, enums that exist, pointers that
point somewhere.  This one passes machine words.  It imports every function of the WIT package that it is written from,
so a new function is there as soon as it is in the contract.

A message's payload is hexadecimal in quotes: what is written at `INPUT` before it is obeyed.

    0..1    what to do: the number of a function, or one of `Deed` counted from the number of functions
    2       how `realloc` behaves while it is done: a `Realloc`
    8..144  up to 17 words of 8 bytes: the flat arguments
    144..   bytes to point at: they are at `SCRATCH`

The reply is the first byte at `RESULT`: 0 where a function's result is ok, 1 where it is an error.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from plexspaces_runtime.wasm.wit import Function, Package
from tests.integration.component_wat import _core_signature, _exports, _flat, _Types

INPUT = 65_536
ARGUMENTS = INPUT + 8
SCRATCH = INPUT + 144
RESULT = 8_192
_REPLY = 1_024
_TEXT = 2_048
HEAP = 262_144
_PAGES = 8
MEMORY_BYTES = _PAGES * 65_536
_FLAT_PARAMS_MAX = 16


class Realloc(IntEnum):
    """What the component does when the node wants room in its memory."""

    HONEST = 0
    NOTHING = 1
    OUT_OF_BOUNDS = 2
    TRAPS = 3
    LOOPS = 4
    CALLS_THE_HOST = 5
    GROWS = 6
    SAME_PLACE = 7
    MISALIGNED = 8


class Deed(IntEnum):
    """What the component does besides calling an import; the words are its arguments."""

    RETURN_POINTER = 0  # word 0: where the result of `handle` is said to be; nothing is written there
    RETURN_SCRATCH = 1  # the scratch bytes are the result of `handle`
    LOOP = 2
    RECURSE = 3
    GROW_MEMORY = 4
    GROW_TABLE = 5
    UNREACHABLE = 6
    DIVIDE = 7
    LOAD = 8  # word 0: from where
    CALL_NOTHING = 9
    NOT_A_NUMBER = 10
    LONG_REPLY = 11  # word 0: bytes of the reply
    LONG_FAILURE = 12  # word 0: bytes of each text of a crash
    CALL_MANY_TIMES = 13  # word 16: function, word 15: times; the other words are the arguments
    STATE = 14  # word 0: bytes of what `get-state` gives from now on, word 1: it never comes back


@dataclass(frozen=True, slots=True)
class Import:
    """One imported function.

    Attributes:
        number: by which a message names it.
        flat: the core types of its arguments, as the canonical ABI flattens them; without the pointer to the result.
    """

    number: int
    interface: str
    function: Function
    flat: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.interface}.{self.function.name}"


def imports(package: Package) -> list[Import]:
    """Every function that a component may import, in the order of their numbers."""
    found: list[Import] = []
    for interface in package.interfaces.values():
        for function in interface.functions.values():
            flat = tuple(flat for _, type_ in function.params for flat in _flat(type_))
            found.append(Import(len(found), interface.name, function, flat))
    return found


def payload(what: int, words: Sequence[int] = (), scratch: bytes = b"", realloc: Realloc = Realloc.HONEST) -> str:
    """A message's payload; words are taken modulo 2 to the 64."""
    head = struct.pack("<HBxxxxx", what, realloc)
    flat = b"".join(struct.pack("<Q", word % (1 << 64)) for word in words)
    return json.dumps((head + flat.ljust(SCRATCH - ARGUMENTS, b"\0") + scratch).hex())


def hostile(package: Package, *, init: str = "", terminate: str = "", start: str = "", describe: str = "") -> str:
    """The component's text.

    Args:
        init, terminate: core instructions that the export begins with.
        start: core instructions of a start function, which runs when the component is instantiated.
        describe: what the component says of itself, instead of one role `wat` that handles anything.
    """
    every = imports(package)
    used = [name for name in package.interfaces if any(each.interface == name for each in every)]
    described = describe or '{"roles":{"wat":{"handlers":{}}}}'
    return "\n".join(
        [
            "(component",
            *(_import(package, name) for name in used),
            _LIBC,
            *(
                f'(alias export ${each.interface} "{each.function.name}" (func $f{each.number}))\n'
                f"(core func $l{each.number} (canon lower (func $f{each.number}) "
                '(memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))'
                for each in every
            ),
            _main(package, every, init, terminate, start, described),
            '(core instance $i (instantiate $main (with "libc" (instance $libc)) (with "host" (instance',
            *(f'(export "{each.number}" (func $l{each.number}))' for each in every),
            "))))",
            *_exports(package.world.exports.values()),
            ")",
        ]
    )


def _import(package: Package, name: str) -> str:
    types = _Types(import_instead=False)
    functions = [
        f'(export "{function.name}" (func {types.signature(function)}))'
        for function in package.interfaces[name].functions.values()
    ]
    return f'(import "{package.qualified(name)}" (instance ${name} {" ".join(types.lines + functions)}))'


# Memory and `realloc` in a module of their own: the imports are lowered with them before the main module is there.
_LIBC = f"""
(core module $memory
  (memory (export "memory") {_PAGES})
  (table (export "table") 1 funcref)
  (global $top (export "top") (mut i32) (i32.const {HEAP}))
  (global $mode (export "mode") (mut i32) (i32.const 0))
  (type $stub (func (result i32)))
  (func (export "realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (if (i32.eq (global.get $mode) (i32.const {Realloc.NOTHING})) (then (return (i32.const 0))))
    (if (i32.eq (global.get $mode) (i32.const {Realloc.OUT_OF_BOUNDS})) (then (return (i32.const -16))))
    (if (i32.eq (global.get $mode) (i32.const {Realloc.TRAPS})) (then unreachable))
    (if (i32.eq (global.get $mode) (i32.const {Realloc.LOOPS})) (then (loop $for_ever (br $for_ever))))
    (if (i32.eq (global.get $mode) (i32.const {Realloc.CALLS_THE_HOST}))
      (then (return (call_indirect (type $stub) (i32.const 0)))))
    (if (i32.eq (global.get $mode) (i32.const {Realloc.GROWS})) (then (drop (memory.grow (i32.const 16)))))
    (if (i32.eq (global.get $mode) (i32.const {Realloc.SAME_PLACE})) (then (return (i32.const {RESULT}))))
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (if (i32.eq (global.get $mode) (i32.const {Realloc.MISALIGNED}))
      (then (local.set $at (i32.add (local.get $at) (i32.const 1)))))
    (global.set $top (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $top) (i32.shl (memory.size) (i32.const 16)))
      (then (drop (memory.grow (i32.add (i32.const 1)
        (i32.shr_u (i32.sub (global.get $top) (i32.shl (memory.size) (i32.const 16))) (i32.const 16)))))))
    (local.get $at)))
(core instance $libc (instantiate $memory))
"""


def _stub(each: Import) -> str:
    """Call an import with the words of the message, and keep its result where a message may look."""
    results = [] if each.function.result is None else _flat(each.function.result)
    flat: Sequence[str] = each.flat if len(each.flat) <= _FLAT_PARAMS_MAX else ("i32",)
    words = [f"({type_}.load (i32.const {ARGUMENTS + 8 * number}))" for number, type_ in enumerate(flat)]
    if len(results) > 1:
        words.append(f"(i32.const {RESULT})")
    call = f"(call $i{each.number} {' '.join(words)})"
    if len(results) == 1:
        call = f"({results[0]}.store (i32.const {RESULT}) {call})"
    return f"(func $s{each.number} (result i32) {call} (i32.load8_u (i32.const {RESULT})))"


def _core_import(each: Import) -> str:
    results = [] if each.function.result is None else _flat(each.function.result)
    flat = list(each.flat if len(each.flat) <= _FLAT_PARAMS_MAX else ("i32",))
    if len(results) > 1:
        flat, results = [*flat, "i32"], []
    signature = f"(param {' '.join(flat)}) (result {' '.join(results)})"
    return f'(import "host" "{each.number}" (func $i{each.number} {signature}))'


def _main(package: Package, every: Sequence[Import], init: str, terminate: str, start: str, described: str) -> str:
    exports = package.world.exports
    deed = len(every)
    escaped = "".join(f"\\{byte:02x}" for byte in described.encode())

    def signature(name: str) -> str:
        return f'(export "{name}") {_core_signature(exports[name])}'

    def word(number: int) -> str:
        return f"(i32.load (i32.const {ARGUMENTS + 8 * number}))"

    def when(what: Deed, then: str) -> str:
        return f"(if (i32.eq (local.get $what) (i32.const {deed + what})) (then {then}))"

    def grown(instruction: str) -> str:
        return f"(i32.ne ({instruction}) (i32.const -1))"

    # A store behind the end of memory, and a table that is larger.
    behind = "(i32.store (i32.shl (memory.size) (i32.const 16)) (i32.const 1))"
    more_table = "table.grow $spare (ref.null func) (i32.const 10000)"
    texts = " ".join(
        f"(i32.store (i32.const {_REPLY + at}) (local.get $long)) (i32.store (i32.const {_REPLY + at + 4}) {word(0)})"
        for at in (8, 16, 24, 32)
    )

    # `result<_, failure>` and `result<string, failure>` that are ok, in memory: a discriminant, and what follows it.
    return f"""
(core module $main
  (import "libc" "memory" (memory {_PAGES}))
  (import "libc" "table" (table $libc_table 1 funcref))
  (import "libc" "top" (global $top (mut i32)))
  (import "libc" "mode" (global $mode (mut i32)))
  (import "libc" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
  {" ".join(map(_core_import, every))}
  (type $stub (func (result i32)))
  (table $stubs {len(every)} funcref)
  (table $spare 1 funcref)
  (elem (table $stubs) (i32.const 0) func {" ".join(f"$s{each.number}" for each in every)})
  (elem (table $libc_table) (i32.const 0) func $from_within)
  (export "memory" (memory 0))
  (export "realloc" (func $realloc))
  (data (i32.const {_TEXT}) "{escaped}")
  (global $state_bytes (mut i32) (i32.const 2))
  (global $state_loops (mut i32) (i32.const 0))
  {f"(func $start {start}) (start $start)" if start else ""}
  {" ".join(map(_stub, every))}
  (func $from_within (result i32) (call $s{next(e.number for e in every if e.name == "random.random-u64")}))
  (func $digit (param $at i32) (result i32) (local $c i32)
    (local.set $c (i32.load8_u (local.get $at)))
    (i32.add (i32.and (local.get $c) (i32.const 15)) (i32.mul (i32.shr_u (local.get $c) (i32.const 6)) (i32.const 9))))
  (func $deeper (param i32) (result i32)
    (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
  (func $room (param $bytes i32) (result i32)
    (drop (memory.grow (i32.add (i32.shr_u (local.get $bytes) (i32.const 16)) (i32.const 1))))
    (global.get $top))
  (func {signature("init")} {init}
    (i32.store8 (i32.const {_REPLY}) (i32.const 0)) (i32.const {_REPLY}))
  (func {signature("terminate")} {terminate}
    (i32.store8 (i32.const {_REPLY}) (i32.const 0)) (i32.const {_REPLY}))
  (func {signature("set-state")} (i32.store8 (i32.const {_REPLY}) (i32.const 0)) (i32.const {_REPLY}))
  (func {signature("get-state")}
    (if (global.get $state_loops) (then (loop $for_ever (br $for_ever))))
    (i32.store (i32.const {_REPLY}) (i32.const 0))
    (i32.store (i32.const {_REPLY + 4}) (call $room (global.get $state_bytes)))
    (i32.store (i32.const {_REPLY + 8}) (global.get $state_bytes))
    (memory.fill (global.get $top) (i32.const 48) (global.get $state_bytes))
    (i32.const {_REPLY}))
  (func {signature("describe")}
    (i32.store (i32.const {_REPLY}) (i32.const {_TEXT}))
    (i32.store (i32.const {_REPLY + 4}) (i32.const {len(described.encode())}))
    (i32.const {_REPLY}))
  (func {signature("handle")} (local $n i32) (local $what i32) (local $long i32)
    ;; parameters 5 and 6 are the payload; its first and last characters are quotes
    (block $done (loop $next
      (br_if $done (i32.ge_u (i32.add (i32.shl (local.get $n) (i32.const 1)) (i32.const 2)) (local.get 6)))
      (i32.store8 (i32.add (i32.const {INPUT}) (local.get $n))
        (i32.or
          (i32.shl
            (call $digit (i32.add (local.get 5) (i32.add (i32.const 1) (i32.shl (local.get $n) (i32.const 1)))))
            (i32.const 4))
          (call $digit (i32.add (local.get 5) (i32.add (i32.const 2) (i32.shl (local.get $n) (i32.const 1)))))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br $next)))
    (i32.store8 (i32.const {RESULT}) (i32.const 0))
    (global.set $mode (i32.load8_u (i32.const {INPUT + 2})))
    (local.set $what (i32.load16_u (i32.const {INPUT})))
    {when(Deed.RETURN_POINTER, f"(return {word(0)})")}
    {when(Deed.RETURN_SCRATCH, f"(return (i32.const {SCRATCH}))")}
    {when(Deed.LOOP, "(loop $for_ever (br $for_ever))")}
    {when(Deed.RECURSE, "(drop (call $deeper (i32.const 0)))")}
    {when(Deed.GROW_MEMORY, f"(loop $more (br_if $more {grown('memory.grow (i32.const 16)')})) {behind}")}
    {when(Deed.GROW_TABLE, f"(loop $more (br_if $more {grown(more_table)})) unreachable")}
    {when(Deed.UNREACHABLE, "unreachable")}
    {when(Deed.DIVIDE, f"(drop (i32.div_s (i32.const 1) {word(0)}))")}
    {when(Deed.LOAD, f"(drop (i32.load {word(0)}))")}
    {when(Deed.CALL_NOTHING, "(drop (call_indirect $spare (type $stub) (i32.const 0)))")}
    {when(Deed.NOT_A_NUMBER, "(drop (i32.trunc_f64_s (f64.const nan)))")}
    {
        when(
            Deed.LONG_REPLY,
            f'''
      (local.set $long (call $room {word(0)}))
      (memory.fill (local.get $long) (i32.const 49) {word(0)})
      (i32.store (i32.const {_REPLY}) (i32.const 0)) (i32.store (i32.const {_REPLY + 4}) (i32.const 1))
      (i32.store (i32.const {_REPLY + 8}) (local.get $long)) (i32.store (i32.const {_REPLY + 12}) {word(0)})
      (global.set $top (i32.const {HEAP}))
      (return (i32.const {_REPLY}))''',
        )
    }
    {
        when(
            Deed.LONG_FAILURE,
            f'''
      (local.set $long (call $room {word(0)}))
      (memory.fill (local.get $long) (i32.const 91) {word(0)})
      (i32.store (i32.const {_REPLY}) (i32.const 1)) (i32.store (i32.const {_REPLY + 4}) {word(1)})
      {texts}
      (global.set $top (i32.const {HEAP}))
      (return (i32.const {_REPLY}))''',
        )
    }
    {
        when(
            Deed.CALL_MANY_TIMES,
            f'''
      (block $enough (loop $again
        (br_if $enough (i32.eqz {word(15)}))
        (i32.store (i32.const {ARGUMENTS + 8 * 15}) (i32.sub {word(15)} (i32.const 1)))
        (drop (call_indirect $stubs (type $stub) {word(16)}))
        (global.set $top (i32.const {HEAP}))
        (br $again)))''',
        )
    }
    {when(Deed.STATE, f"(global.set $state_bytes {word(0)}) (global.set $state_loops {word(1)})")}
    (if (i32.lt_u (local.get $what) (i32.const {deed}))
      (then (drop (call_indirect $stubs (type $stub) (local.get $what)))))
    (global.set $mode (i32.const 0))
    (global.set $top (i32.const {HEAP}))
    ;; the reply: one digit
    (i32.store8 (i32.const {_REPLY + 64}) (i32.add (i32.const 48)
      (i32.rem_u (i32.load8_u (i32.const {RESULT})) (i32.const 10))))
    (i32.store (i32.const {_REPLY}) (i32.const 0)) (i32.store (i32.const {_REPLY + 4}) (i32.const 1))
    (i32.store (i32.const {_REPLY + 8}) (i32.const {_REPLY + 64})) (i32.store (i32.const {_REPLY + 12}) (i32.const 1))
    (i32.const {_REPLY})))
"""
