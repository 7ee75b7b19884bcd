"""A bank in a process of its own, which outlives the nodes that pay through it: it notes every request with its key.

    python bank.py SEED     prints its port, and serves until it is ended
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SEEN: list[tuple[str, str]] = []
LOCK = threading.Lock()
CHANCE = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 0)


class Bank(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        with LOCK:
            SEEN.append((self.path, self.headers.get("idempotency-key", "")))
            before_s, after_s = CHANCE.random() * 0.02, CHANCE.random() * 0.02
        # So that some nodes die after it was done and before they know.
        time.sleep(before_s + after_s)
        self._answer({"receipt": f"{self.path} paid"})

    def do_GET(self) -> None:
        with LOCK:
            self._answer(SEEN)

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bank)
    print(server.server_address[1], flush=True)
    server.serve_forever()
