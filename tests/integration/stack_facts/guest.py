"""The guest of the facts about Python in the sandbox.  `act` is one command a call; nothing catches what it raises."""

from __future__ import annotations

import json
import os
import random
import sys
import time

import wit_world

HOARD: list[object] = []


class WitWorld(wit_world.WitWorld):
    def act(self, command: str, text: str) -> str:
        match command:
            case "echo":
                return text
            case "time":
                return str(time.time())
            case "urandom":
                return os.urandom(4).hex()
            case "random":
                return str(random.random())
            case "open":
                with open(text, encoding="utf-8") as file:
                    return file.read()
            case "import":
                __import__(text)
                return "imported"
            case "raise":
                raise ValueError(text)
            case "exit":
                os._exit(3)
            case "exec":
                names: dict[str, object] = {}
                exec(text, names)
                return str(names["result"])
            case "hoard":
                try:
                    while True:
                        HOARD.append(bytearray(1_000_000))
                except MemoryError:
                    HOARD.clear()
                    return "MemoryError"
            case "recurse":

                def deeper() -> None:
                    deeper()

                try:
                    deeper()
                except RecursionError:
                    return "RecursionError"
            case "deep-json":
                sys.setrecursionlimit(10**8)
                return str(len(json.loads("[" * int(text))))
        return "unknown command"
