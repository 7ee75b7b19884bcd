"""A multipart form with one large file: read as it comes, the file straight to disk, nothing held for longer."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import InvalidArgument, PayloadTooLarge, UnsupportedMediaType

# Field names, boundaries and part headers around the contents.
FRAMING_BYTES_MAX = 64 * 1024
FIELD_BYTES_MAX = 256 * 1024
_WRITE_BYTES = 1 << 20


@dataclass(slots=True)
class _Part:
    name: str = ""
    is_file: bool = False
    text: bytearray = field(default_factory=bytearray)


class Upload:
    """The form's text fields, and the file on disk until the `async with` block ends.

    Args:
        content_type: of the request.
        file_field: the name of the field that is the file.
        text_fields: the names of the others that may be there.
        file_bytes_max: size of the file.
        directory: where to keep it; the system's temporary directory if None.

    Raises:
        UnsupportedMediaType: not a multipart form.
    """

    def __init__(
        self,
        content_type: bytes | None,
        *,
        file_field: str,
        text_fields: tuple[str, ...],
        file_bytes_max: int,
        directory: Path | None,
    ) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:
            raise UnsupportedMediaType(
                f"send a form with a file (Content-Type: multipart/form-data) with the fields "
                f"{', '.join((*text_fields, file_field))}"
            )
        self.fields: dict[str, str] = {}
        self.size_bytes = 0
        self._file_field = file_field
        self._text_fields = text_fields
        self._file_bytes_max = file_bytes_max
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._has_file = False
        self._complete = False
        # Not yet on disk.
        self._pending = bytearray()
        self._part = _Part()
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    @property
    def path(self) -> Path:
        """Where the file is."""
        assert self._file is not None
        return Path(self._file.name)

    async def __aenter__(self) -> Upload:
        def create() -> IO[bytes]:
            if self._directory is not None:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return tempfile.NamedTemporaryFile(
                dir=self._directory, prefix="plexspaces-upload-", buffering=0, delete=False
            )

        self._file = await asyncio.to_thread(create)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()
        await asyncio.to_thread(os.unlink, self._file.name)

    async def read(self, pieces: AsyncIterator[bytes]) -> None:
        """Read the whole form.

        Raises:
            InvalidArgument: it is malformed, or a field is missing, unknown or there twice.
            PayloadTooLarge: the file or a field is too large; the rest is not read.
        """
        total = 0
        total_max = self._file_bytes_max + FRAMING_BYTES_MAX + FIELD_BYTES_MAX * len(self._text_fields)
        async for piece in pieces:
            total += len(piece)
            if total > total_max:
                raise self._too_large()
            try:
                self._parser.write(piece)
            except FormParserError as error:
                raise InvalidArgument(f"the form is malformed: {error}") from None
            if len(self._pending) >= _WRITE_BYTES:
                await self._flush()
        await self._flush()
        if not self._complete:
            raise InvalidArgument("the form ends before its last boundary")
        if not self._has_file:
            raise InvalidArgument(f"the form has no file: add one as {self._file_field!r} (curl -F wasm=@FILE)")

    def required(self, name: str) -> str:
        """The text of a field that has to be there.

        Raises:
            InvalidArgument
        """
        if name not in self.fields:
            raise InvalidArgument(f"the form has no field {name!r}: add it (curl -F {name}=...)")
        return self.fields[name]

    async def _flush(self) -> None:
        if self._pending:
            assert self._file is not None
            # A full disk must not become a slow loop.
            await asyncio.to_thread(_write_all, self._file, bytes(self._pending))
            self._pending.clear()

    # -- the parser's side --------------------------------------------------------------------------------

    def _on_part_begin(self) -> None:
        self._part = _Part()
        self._header = (bytearray(), bytearray())

    def _on_header_end(self) -> None:
        name, value = bytes(self._header[0]).strip().lower(), bytes(self._header[1])
        if name == b"content-disposition":
            kind, options = parse_options_header(value)
            if kind == b"form-data":
                self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        part = self._part
        if part.name == self._file_field:
            if self._has_file:
                raise InvalidArgument(f"the form has two files called {part.name!r}")
            part.is_file = self._has_file = True
        elif part.name not in self._text_fields:
            known = ", ".join((*self._text_fields, self._file_field))
            raise InvalidArgument(f"the form has a field {part.name[:80]!r}; known are {known}")
        elif part.name in self.fields:
            raise InvalidArgument(f"the form has the field {part.name!r} twice")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.is_file:
            self.size_bytes += end - start
            if self.size_bytes > self._file_bytes_max:
                raise self._too_large()
            self._pending += memoryview(data)[start:end]
        else:
            if len(part.text) + end - start > FIELD_BYTES_MAX:
                raise PayloadTooLarge(f"the field {part.name!r} may have {FIELD_BYTES_MAX} bytes")
            part.text += memoryview(data)[start:end]

    def _on_part_end(self) -> None:
        part = self._part
        if not part.is_file:
            try:
                self.fields[part.name] = part.text.decode("utf-8")
            except UnicodeDecodeError:
                raise InvalidArgument(f"the field {part.name!r} is not UTF-8") from None

    def _on_end(self) -> None:
        self._complete = True

    def _too_large(self) -> PayloadTooLarge:
        return too_large(self._file_bytes_max)


def too_large(file_bytes_max: int) -> PayloadTooLarge:
    """The error for a component that is too large."""
    return PayloadTooLarge(
        f"a component may have {file_bytes_max} bytes (wasm_bytes_max of the node's configuration)",
        limit="wasm_bytes_max",
        bytes_max=file_bytes_max,
    )


def _write_all(file: IO[bytes], data: bytes) -> None:
    descriptor, view = file.fileno(), memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
