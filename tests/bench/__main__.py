"""Run the benchmarks one after the other, each in a process of its own, and print one table."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import asdict

import uvloop

BENCHES = (
    *("ask", "spawn", "restart", "virtual", "memory", "fairness", "idle", "http", "grpc"),
    *("kv", "streams", "tuples", "channels", "durable", "steps", "beside", "isolation", "build", "tenants"),
    "miniclaw",
)


def main(names: list[str]) -> int:
    if names[:1] == ["--only"]:
        rows = uvloop.run(importlib.import_module(f"tests.bench.{names[1]}").run())
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    unknown = set(names) - set(BENCHES)
    if unknown:
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    print("| what | measured | goal | met |\n|---|---|---|---|", flush=True)
    for name in names or BENCHES:
        command = [sys.executable, "-m", "tests.bench", "--only", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"| {name} | failed with exit code {done.returncode} | | no |", flush=True)
            continue
        for row in json.loads(done.stdout.splitlines()[-1]):
            met = {True: "yes", False: "**no**", None: ""}[row["met"]]
            print(f"| {row['what']} | {row['figure']} | {row['goal']} | {met} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
