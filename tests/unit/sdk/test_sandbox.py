"""The standard library, routed: run in a process of its own, because it changes that process for good."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = r'''
import sys
from plexspaces import _sandbox
from plexspaces.errors import SandboxError
from plexspaces._bindings.wit_world.imports.logging import Level

class Host:
    class clock:
        now, slept = 1_700_000_000_500_000_000, []
        now_ns = staticmethod(lambda: Host.clock.now)
        monotonic_ns = staticmethod(lambda: 42)
        sleep_ns = staticmethod(lambda n: Host.clock.slept.append(n))
    class random:
        calls = []
        @staticmethod
        def random_hex(n):
            Host.random.calls.append(n)
            return (bytes([len(Host.random.calls)]) * n).hex()
    class logging:
        Level = Level
        lines = []
        log = staticmethod(lambda level, line: Host.logging.lines.append((level.name, line)))

sys.modules["_datetime"] = None
del sys.modules["datetime"]
_sandbox.install()
from time import time as early
from os import listdir as early_listdir
import ast, datetime, logging, os, pathlib, random, secrets, socket, subprocess, threading, time, uuid

# While it is built: no host, a clock that stands still, a fixed sequence, files as ever.
assert time.time() == early() == 946_684_800.0 and time.monotonic() == 0
built = secrets.token_hex(4)
assert "__main__" in _sandbox.frozen_chance
assert open(os.__file__).read(3)
_sandbox.seal()
before = random.random()
_sandbox.activate(Host)
_sandbox.reseed()

def refused(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except SandboxError as error:
        assert isinstance(error, OSError)
        return str(error)
    raise AssertionError(function)

assert time.time() == early() == 1_700_000_000.5 and time.monotonic_ns() == time.perf_counter_ns() == 42
assert time.gmtime()[:6] == (2023, 11, 14, 22, 13, 20) and time.strftime("%Y") == "2023"
assert datetime.datetime.now(datetime.timezone.utc).isoformat() == "2023-11-14T22:13:20.500000+00:00"
assert datetime.date.today() == datetime.date(2023, 11, 14)
assert time.get_clock_info("monotonic").monotonic
time.sleep(0.25)
assert Host.clock.slept == [250_000_000]

assert Host.random.calls == [32], "activation seeds the module's generator"
assert len(os.urandom(100_000)) == 100_000 and Host.random.calls[1:] == [65_536, 34_464]
drawn = len(Host.random.calls)
random.Random()
assert len(Host.random.calls) == drawn + 1, "a new generator is seeded by the host"
first, second = random.Random().random(), random.Random().random()
assert first != second and random.Random(1).random() == random.Random(1).random()
assert len({str(uuid.uuid4()), str(uuid.uuid1()), secrets.token_hex(8), str(random.SystemRandom().random())}) == 4

print("one")
print("two", "three", end="")
print()
sys.stderr.write("half")
logging.warning("careful")
sys.stdout.write("unfinished")
_sandbox.finish_output()
assert Host.logging.lines == [
    ("INFO", "one"), ("INFO", "two three"), ("WARN", "halfWARNING:root:careful"), ("INFO", "unfinished"),
], Host.logging.lines

for function, args, says in (
    (open, ("/etc/passwd",), "no file system"), (pathlib.Path("/x").read_text, (), "no file system"),
    (early_listdir, ("/",), "no file system"), (os.mkdir, ("/x",), "no file system"),
    (os.stat, ("/",), "no file system"),
    (socket.socket, (), "no network"), (socket.create_connection, (("a", 1),), "no network"),
    (subprocess.run, (["ls"],), "cannot start processes"), (os.system, ("ls",), "cannot start processes"),
    (threading.Thread(target=print).start, (), "no threads"), (input, (), "no terminal"),
    (os._exit, (1,), "cannot end its process"), (os.abort, (), "cannot end its process"),
):
    assert says in refused(function, *args), function
assert not os.path.exists("/etc/passwd") and os.getcwd() == "/"

try:
    import wave
except ModuleNotFoundError as error:
    assert "was not imported while the component was built" in str(error) and error.name == "wave"
else:
    raise AssertionError("wave was found")

for source in ("a b", "def f(:"):
    try:
        exec(source)
    except SyntaxError as error:
        assert error.filename == "<string>"
    else:
        raise AssertionError(source)
try:
    compile("a b", os.__file__, "exec")
except SyntaxError as error:  # CPython would have opened the file to show its line
    assert error.filename == os.__file__ and error.text.strip() == "a b", error.text
def scope():
    x = 1
    exec("assert x == 1; y = 2")
    assert "y" not in locals()
    names = {}
    exec("def f(): return __name__\nz = f.__code__.co_filename", names)
    assert names["z"] == "<string>" and compile("1", "here", "eval").co_filename == "here"
    ast.parse("x = 1")
scope()
Host.logging.lines.append("passed")
sys.__stdout__._build.write("passed")
sys.__stdout__._build.flush()
'''


def test_the_standard_library_comes_from_the_host() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.stdout == "passed", done.stdout + done.stderr
