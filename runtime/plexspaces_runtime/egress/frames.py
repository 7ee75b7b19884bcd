"""Counts the frames of HTTP/2 that bring nothing of an answer, before anybody spends time on them.

A frame of nine bytes takes the protocol's library tens of microseconds, so that a limit in bytes is none in time.
"""

from __future__ import annotations

from typing import Final

from ..errors import LimitExceeded

_HEAD_BYTES: Final = 9
_DATA: Final = 0


class FrameLimit:
    """What a peer says on one connection (RFC 9113, section 4.1), as far as it must be known for counting."""

    __slots__ = ("_head", "_idle_frames_left", "_idle_frames_max", "_payload_bytes_left")

    def __init__(self) -> None:
        self._head = b""
        self._payload_bytes_left = 0
        self._idle_frames_max = self._idle_frames_left = 0

    def begin(self, idle_frames_max: int) -> None:
        """Take so many frames without content from now on."""
        self._idle_frames_max = self._idle_frames_left = idle_frames_max

    def feed(self, data: bytes) -> None:
        """Look at the next bytes.

        Raises:
            LimitExceeded: there are too many frames without content.
        """
        at = 0
        while at < len(data):
            skipped = min(self._payload_bytes_left, len(data) - at)
            self._payload_bytes_left -= skipped
            at += skipped
            taken = data[at : at + _HEAD_BYTES - len(self._head)]
            self._head += taken
            at += len(taken)
            if len(self._head) == _HEAD_BYTES:
                self._payload_bytes_left = int.from_bytes(self._head[:3])
                if self._head[3] != _DATA or self._payload_bytes_left == 0:
                    self._idle_frames_left -= 1
                self._head = b""
            if self._idle_frames_left < 0:
                raise LimitExceeded(
                    f"the answer has more than {self._idle_frames_max} frames without content",
                    limit="frames_max",
                    value=self._idle_frames_max,
                    unit="frames",
                )
