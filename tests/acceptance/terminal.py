"""A terminal with a person at it: a command in a pseudo-terminal, what it shows, and what is typed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")


class Terminal:
    """A running command.

    Attributes:
        shown: everything so far, without what moves the cursor and colours the text.
    """

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.shown = ""
        self._master = master
        self._seen = 0

    def until(self, text: str, within_s: float = 60) -> str:
        """Wait until a text is shown after what was waited for before; what came up to it."""
        deadline = time.monotonic() + within_s
        while (at := self.shown.find(text, self._seen)) < 0:
            assert self._read(deadline - time.monotonic()), f"never: {text!r}; shown is\n{self.shown[self._seen :]}"
        found = self.shown[self._seen : at + len(text)]
        self._seen = at + len(text)
        return found

    def _read(self, within_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, within_s))
        if not ready:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:
            # On Linux this is how the end of the other side reads.
            return False
        self.shown += _CONTROL.sub("", piece.decode(errors="replace"))
        return bool(piece)

    def type(self, line: str) -> None:
        """Type a line."""
        self.press(line.encode() + b"\r")

    def press(self, keys: bytes) -> None:
        """Press keys, as the terminal sends them."""
        os.write(self._master, keys)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.press(b"\x03")

    def end(self, within_s: float = 30) -> int:
        """Wait until the command has ended; its exit status."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end; shown is\n{self.shown[self._seen :]}"
            self._read(0.1)
        return self.process.returncode


@contextmanager
def terminal(command: Sequence[str], env: Mapping[str, str]) -> Iterator[Terminal]:
    """A command in a terminal of its own."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))

    def own() -> None:
        # What Ctrl-C is sent to is the foreground of a terminal that one controls.
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**env, "TERM": "xterm"}, start_new_session=True,
        preexec_fn=own,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        os.close(master)
