"""What is refused by its first bytes, before anything is compiled."""

from __future__ import annotations

import pytest

from plexspaces_runtime.errors import InvalidComponent
from plexspaces_runtime.wasm.audit import check_header

COMPONENT = b"\0asm\x0d\0\x01\0"


@pytest.mark.parametrize(
    ("wasm", "says"),
    [
        (b"", "empty"),
        (b"\0", "truncated: it ends after 1 bytes"),
        (b"\0asm", "truncated: it ends after 4 bytes"),
        (COMPONENT, "truncated: it ends after 8 bytes"),
        (b"\0asm\x01\0\0\0rest", "core WebAssembly module, not a component"),
        (b"\0asm\x0c\0\x01\0rest", "version 12 of layer 1"),
        (b"\0asm\x0d\0\x02\0rest", "version 13 of layer 2"),
        (b"garbage", "not WebAssembly; build it"),
        (b"PK\x03\x04....", "zip archive"),
        (b"\x7fELF....", "native"),
        (b"  (component)", "WebAssembly text"),
        (b"from plexspaces import actor", "Python source"),
    ],
)
def test_refused_with_what_it_is(wasm: bytes, says: str) -> None:
    with pytest.raises(InvalidComponent, match=says) as caught:
        check_header(wasm)
    assert "plexspaces build" in str(caught.value) or "send it again" in str(caught.value) or not wasm


def test_a_component_passes() -> None:
    check_header(COMPONENT + b"\0")
