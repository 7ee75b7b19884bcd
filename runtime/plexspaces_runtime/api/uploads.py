"""A multipart form with large files: read as it comes, the files straight to disk, nothing held for longer."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
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


@dataclass(frozen=True, slots=True)
class FormShape:
    """What a form may hold.

    Attributes:
        text_fields: fields that are kept as text.
        file_field: the one field that is a file and has to be there; None if every other field is a file.
        files_max: how many files.
        file_bytes_max: size of each, `wasm_bytes_max` of the node.
        files_bytes_max: their sizes together.
    """

    text_fields: tuple[str, ...]
    file_field: str | None
    file_bytes_max: int
    files_bytes_max: int
    files_max: int = 1

    @property
    def bytes_max(self) -> int:
        """Size of the whole form."""
        return self.files_bytes_max + FRAMING_BYTES_MAX + FIELD_BYTES_MAX * len(self.text_fields)

    @property
    def described(self) -> str:
        """Its fields, for messages."""
        return ", ".join((*self.text_fields, self.file_field or "a file for each component"))

    def check_length(self, length_bytes: int) -> None:
        """Refuse a request by its Content-Length, before anything of it is read.

        Raises:
            PayloadTooLarge
        """
        if length_bytes > self.bytes_max:
            raise self.too_large() if self.file_field else self.too_large_together()

    def too_large(self) -> PayloadTooLarge:
        """The error for one file that is too large."""
        return PayloadTooLarge(
            f"a component may have {self.file_bytes_max} bytes (wasm_bytes_max of the node's configuration)",
            limit="wasm_bytes_max",
            bytes_max=self.file_bytes_max,
        )

    def too_large_together(self) -> PayloadTooLarge:
        """The error for files that are too large together."""
        return PayloadTooLarge(
            f"the components of one application may have {self.files_bytes_max} bytes together "
            "(application_bytes_max of the edge)",
            limit="application_bytes_max",
            bytes_max=self.files_bytes_max,
        )


@dataclass(slots=True)
class _Part:
    name: str = ""
    is_file: bool = False
    size_bytes: int = 0
    text: bytearray = field(default_factory=bytearray)


class Upload:
    """The form's text fields, and the files on disk until the `async with` block ends.

    Args:
        content_type: of the request.
        shape: what the form may hold.
        directory: where to keep the files; the system's temporary directory if None.

    Raises:
        UnsupportedMediaType: not a multipart form.
    """

    def __init__(self, content_type: bytes | None, shape: FormShape, *, directory: Path | None) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:
            raise UnsupportedMediaType(
                f"send a form with files (Content-Type: multipart/form-data) with the fields {shape.described}"
            )
        self.fields: dict[str, str] = {}
        self._shape = shape
        self._directory = directory
        self._folder: Path | None = None
        # By the field's name; each is on disk as soon as something of it was written.
        self._files: dict[str, IO[bytes]] = {}
        self._files_bytes = 0
        self._complete = False
        # Not yet on disk.
        self._pending: dict[str, bytearray] = {}
        self._pending_bytes = 0
        self._writing: asyncio.Future[None] | None = None
        self._names: set[str] = set()
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
    def files(self) -> Mapping[str, Path]:
        """Where each file is, by its field."""
        return {name: Path(file.name) for name, file in self._files.items()}

    async def __aenter__(self) -> Upload:
        def create() -> Path:
            if self._directory is not None:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self._directory, prefix="plexspaces-upload-"))

        creating = asyncio.ensure_future(asyncio.to_thread(create))
        try:
            self._folder = await asyncio.shield(creating)
        except asyncio.CancelledError:
            # A thread is not cancelled with the request: what it makes must not stay, however often that is cancelled.
            creating.add_done_callback(lambda made: _remove(made.result()))
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._folder is not None
        if self._writing is not None:
            # A thread is not cancelled with the request: it must not write what is being removed.
            await asyncio.wait([self._writing])
        for file in self._files.values():
            file.close()
        await asyncio.shield(_remove(self._folder))

    async def read(self, pieces: AsyncIterator[bytes]) -> None:
        """Read the whole form.

        Raises:
            InvalidArgument: it is malformed, or a field is missing, unknown or there twice.
            PayloadTooLarge: a file or a field is too large; the rest is not read.
        """
        total = 0
        async for piece in pieces:
            total += len(piece)
            self._shape.check_length(total)
            try:
                self._parser.write(piece)
            except FormParserError as error:
                raise InvalidArgument(f"the form is malformed: {error}") from None
            if self._pending_bytes >= _WRITE_BYTES:
                await self._flush()
        await self._flush()
        if not self._complete:
            raise InvalidArgument("the form ends before its last boundary")
        wanted = self._shape.file_field
        if wanted is not None and wanted not in self._files:
            raise InvalidArgument(f"the form has no file: add one as {wanted!r} (curl -F {wanted}=@FILE)")

    def required(self, name: str) -> str:
        """The text of a field that has to be there.

        Raises:
            InvalidArgument
        """
        if name not in self.fields:
            raise InvalidArgument(f"the form has no field {name!r}: add it (curl -F {name}=...)")
        return self.fields[name]

    async def _flush(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, {}, 0
        if pending:
            # A full disk must not become a slow loop.
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, pending))
            await asyncio.shield(self._writing)

    def _write(self, pending: Mapping[str, bytearray]) -> None:
        assert self._folder is not None
        for name, data in pending.items():
            if name not in self._files:
                # What the sender calls it is no name for a file of ours.
                self._files[name] = (self._folder / f"{len(self._files)}.wasm").open("xb", buffering=0)
            _write_all(self._files[name], data)

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
        part, shape = self._part, self._shape
        part.is_file = part.name not in shape.text_fields
        if part.name in self._names:
            what = f"two files called {part.name[:80]!r}" if part.is_file else f"the field {part.name!r} twice"
            raise InvalidArgument(f"the form has {what}")
        self._names.add(part.name)
        if not part.is_file:
            return
        if shape.file_field not in (None, part.name):
            raise InvalidArgument(f"the form has a field {part.name[:80]!r}; known are {shape.described}")
        if len(self._files.keys() | self._pending.keys()) >= shape.files_max:
            raise InvalidArgument(f"the form has more files than the {shape.files_max} there may be")
        self._pending[part.name] = bytearray()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        part, size = self._part, end - start
        part.size_bytes += size
        if part.is_file:
            self._files_bytes += size
            if part.size_bytes > self._shape.file_bytes_max:
                raise self._shape.too_large()
            if self._files_bytes > self._shape.files_bytes_max:
                raise self._shape.too_large_together()
            self._pending.setdefault(part.name, bytearray()).extend(memoryview(data)[start:end])
            self._pending_bytes += size
        else:
            if part.size_bytes > FIELD_BYTES_MAX:
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


def _remove(folder: Path) -> asyncio.Future[None]:
    return asyncio.ensure_future(asyncio.to_thread(shutil.rmtree, folder))


def _write_all(file: IO[bytes], data: bytes | bytearray) -> None:
    descriptor, view = file.fileno(), memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
