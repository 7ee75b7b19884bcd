"""What the HTTP edge may be told: where it listens, how long it waits for a client and how much it takes from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Limits and times of the HTTP edge.  What one message may hold is the node's (`Limits`), not the edge's.

    Attributes:
        host: address to listen on.
        port: 0 lets the system choose.
        backlog: connections the kernel keeps waiting.
        connections_max: open connections; the next is answered 503 and closed.
        requests_max: requests under way; the next is answered 503.
        head_bytes_max: request line and headers together.
        url_bytes_max: the request line's target.
        headers_max: how many headers.
        handshake_timeout_s: how long a TLS handshake may take.
        head_timeout_s: from a request's first byte to the end of its headers.
        body_timeout_s: how long a body may take however small it is ...
        body_bytes_per_s_min: ... and how fast a longer one has to come, on the average.
        keep_alive_s: how long a connection may do nothing.
        linger_s: how long a client that still sends is listened to after it was refused, so that it reads why.
        stall_s: how long a client may leave an answer unread.
        live_heartbeat_s: how long a live reader hears nothing; a comment then shows that the connection lives.
        live_retry_ms: after how long a live reader is to come back when its connection ends.
        live_s_max: how long one live connection lasts: its token is looked at again when it comes back.
        wait_s_max: the longest `wait`.
        list_max: actors, streams or blobs in one answer.
        uploads_max: components or applications received at the same time.
        application_components_max: components of one application.
        application_bytes_max: their sizes together.
        blob_uploads_max: blobs received at the same time.
        upload_dir: where components are kept while they come in; the system's own if None.
        token_bytes_max: size of a bearer token.
        idempotency_entries_max: recorded replies kept.
        idempotency_bytes_max: their sizes together.
        idempotency_reply_bytes_max: a longer reply is not recorded: its repetition is refused instead.
        idempotency_retention_s: how long a recorded reply is kept.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    backlog: int = 1024
    connections_max: int = 10_000
    requests_max: int = 10_000
    head_bytes_max: int = 32 * _KIB
    url_bytes_max: int = 8 * _KIB
    headers_max: int = 100
    handshake_timeout_s: float = 10.0
    head_timeout_s: float = 10.0
    body_timeout_s: float = 20.0
    body_bytes_per_s_min: int = 4 * _KIB
    keep_alive_s: float = 75.0
    linger_s: float = 10.0
    stall_s: float = 60.0
    live_heartbeat_s: float = 15.0
    live_retry_ms: int = 2_000
    live_s_max: float = 3_600.0
    wait_s_max: float = 300.0
    list_max: int = 1_000
    uploads_max: int = 4
    application_components_max: int = 64
    application_bytes_max: int = 512 * _MIB
    blob_uploads_max: int = 32
    upload_dir: Path | None = None
    token_bytes_max: int = 8 * _KIB
    idempotency_entries_max: int = 10_000
    idempotency_bytes_max: int = 64 * _MIB
    idempotency_reply_bytes_max: int = 1 * _MIB
    idempotency_retention_s: float = 86_400.0
