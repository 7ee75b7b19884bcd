"""A durable counter on DBOS and SQLite; prints calls a second, by how many call.

    python dbos_counter.py FOLDER SECONDS CALLERS...
"""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
import time
from pathlib import Path

from dbos import DBOS, SetWorkflowID

_local = threading.local()
_folder = Path(sys.argv[1])


def _connection() -> sqlite3.Connection:
    if not hasattr(_local, "connection"):
        _local.connection = sqlite3.connect(_folder / "counters.sqlite", isolation_level=None, timeout=30)
        _local.connection.execute("PRAGMA journal_mode = WAL")
        _local.connection.execute("PRAGMA synchronous = FULL")
    connection: sqlite3.Connection = _local.connection
    return connection


@DBOS.step()
def add(name: str, amount: int) -> int:
    rows = _connection().execute(
        "INSERT INTO counters VALUES (?, ?) ON CONFLICT DO UPDATE SET count = count + ? RETURNING count",
        (name, amount, amount),
    )
    count: int = rows.fetchall()[0][0]
    return count


@DBOS.workflow()
def increment(name: str, amount: int) -> int:
    return add(name, amount)


def rate(callers: int, seconds: float) -> float:
    until = time.perf_counter() + seconds
    done = [0] * callers

    def caller(number: int) -> None:
        while time.perf_counter() < until:
            with SetWorkflowID(f"{callers}-{seconds}-{number}-{done[number]}"):
                increment(f"c{number}", 2)
            done[number] += 1

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def main() -> None:
    seconds = float(sys.argv[2])
    DBOS(
        config={
            "name": "counter",
            "system_database_url": f"sqlite:///{_folder}/dbos.sqlite",
            "log_level": "ERROR",
        }
    )
    _connection().execute("CREATE TABLE counters (name TEXT PRIMARY KEY, count INTEGER)")
    DBOS.launch()
    rate(1, seconds / 4)
    print(json.dumps({callers: rate(callers, seconds) for callers in map(int, sys.argv[3:])}))
    DBOS.destroy()


if __name__ == "__main__":
    main()
