"""What the gRPC door may be told: where it listens and how much it takes from a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """Limits and times of the gRPC door.  What one message may hold is the node's, and the rest is the HTTP edge's.

    Attributes:
        host: address to listen on.
        port: 0 lets the system choose.
        streams_per_connection_max: calls under way on one connection; a client waits with the next.
        connections_max: open connections; the next is closed.
        metadata_bytes_max: metadata of one call; more is refused.
        piece_bytes_max: one message of a stream that uploads.
        handshake_timeout_s: how long a client may take to become one, TLS included.
        idle_s_max: how long a connection without a call is kept.
        keep_alive_s: how long a silent connection is believed to live before it is asked.
        keep_alive_timeout_s: how long it may take to answer that.
        ping_interval_s_min: a client that asks more often is told `too_many_pings` and closed.
        stall_s: how long a client may leave what was written to it unread.
    """

    host: str = "127.0.0.1"
    port: int = 9090
    streams_per_connection_max: int = 1_000
    connections_max: int = 10_000
    metadata_bytes_max: int = 32 * _KIB
    piece_bytes_max: int = 1 * _MIB
    handshake_timeout_s: float = 10.0
    idle_s_max: float = 300.0
    keep_alive_s: float = 60.0
    keep_alive_timeout_s: float = 20.0
    ping_interval_s_min: float = 10.0
    stall_s: float = 60.0
