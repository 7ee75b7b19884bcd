"""What code could do that has got out of a guest: in a hardened node, and in the process of an isolated application.

The same functions that the node and that process call are called in a Python process of the test's, which then tries.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.isolation import landlock, seccomp

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "packaging" / "systemd" / "plexspaces.service"
CLI = [sys.executable, "-m", "plexspaces_runtime.cli"]

needs_kernel = pytest.mark.skipif(
    landlock.abi() < 6 or not seccomp.available(),
    reason=f"this kernel has Landlock ABI {landlock.abi()} (6 is needed) on {platform.machine()}",
)

# What is tried, by name: each raises if it is refused.
ATTEMPTS = """
import ctypes, json, os, signal, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(name, *arguments):
    from plexspaces_runtime.isolation.syscalls import MACHINES
    number = MACHINES[os.uname().machine].number(name)
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def ran(*command):
    return subprocess.run(command, check=True, capture_output=True).stdout
def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
PARENT = os.getppid()
tries = {
    "read outside": lambda: open(OUTSIDE + "/secret").read(),
    "list outside": lambda: os.listdir(OUTSIDE),
    "write outside": lambda: open(OUTSIDE + "/new", "w"),
    "by a link": lambda: (os.symlink(OUTSIDE + "/secret", INSIDE + "/link"), open(INSIDE + "/link").read()),
    "by its descriptor": lambda: open(f"/proc/self/fd/{os.open(OUTSIDE, os.O_PATH)}/secret").read(),
    "truncate outside": lambda: os.truncate(OUTSIDE + "/secret", 0),
    "delete outside": lambda: os.unlink(OUTSIDE + "/secret"),
    "shadow": lambda: open("/etc/shadow").read(),
    "read the parent's environment": lambda: open(f"/proc/{PARENT}/environ", "rb").read(),
    "read the parent's memory": lambda: open(f"/proc/{PARENT}/mem", "rb").read(1),
    "write inside": lambda: open(INSIDE + "/new", "w").write("x"),
    "read inside": lambda: open(INSIDE + "/new").read(),
    "read python": lambda: open(os.__file__).read(),
    "start python": lambda: ran(sys.executable, "-c", "print(1)"),
    "start a shell": lambda: ran("/bin/sh", "-c", "echo 1"),
    "start what was written": lambda: (
        open(INSIDE + "/run", "w").write("#!/bin/sh\\n"), os.chmod(INSIDE + "/run", 0o700), ran(INSIDE + "/run")
    ),
    "fork": fork,
    # Of itself, which is nobody's tracee: without a filter there is no such process.
    "ptrace": lambda: call("ptrace", 7, os.getpid(), 0, 0),
    "process_vm_readv": lambda: call("process_vm_readv", PARENT, 0, 0, 0, 0, 0),
    "pidfd_getfd": lambda: call("pidfd_getfd", 0, 0, 0),
    "mount": lambda: call("mount", 0, 0, 0, 0, 0),
    "chroot": lambda: os.chroot("/"),
    "unshare": lambda: call("unshare", 0x10000000),
    "setns": lambda: call("setns", 0, 0),
    "bpf": lambda: call("bpf", 0, 0, 0),
    "perf_event_open": lambda: call("perf_event_open", 0, 0, 0, 0, 0),
    "userfaultfd": lambda: call("userfaultfd", 0),
    "io_uring": lambda: call("io_uring_setup", 1, 0),
    "keyctl": lambda: call("keyctl", 0, 0, 0, 0, 0),
    "kexec": lambda: call("kexec_load", 0, 1 << 20, 0, 0),
    "init_module": lambda: call("init_module", 0, 0, 0),
    "open_by_handle_at": lambda: call("open_by_handle_at", 0, 0, 0),
    "raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "vsock": lambda: socket.socket(40, socket.SOCK_STREAM),
    "tcp socket": lambda: socket.socket().close(),
    "connect": lambda: socket.create_connection(("127.0.0.1", LISTENING), 2).close(),
    "listen on its port": lambda: socket.socket().bind(("127.0.0.1", OWN)),
    "listen on another port": lambda: socket.socket().bind(("127.0.0.1", OTHER)),
    "unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "abstract socket": lambda: socket.socket(socket.AF_UNIX).connect(ABSTRACT),
    "signal the parent": lambda: os.kill(PARENT, 0),
    "signal itself": lambda: os.kill(os.getpid(), 0),
    "chown": lambda: os.chown(INSIDE, 1, 1),
    "a capability": lambda: socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1),
    "more limits": lambda: __import__("resource").setrlimit(4, (-1, -1)),
    "set the user": lambda: os.setuid(65_534),
}
def attempt(name):
    try:
        tries[name]()
    except OSError as error:
        return error.errno
    except (subprocess.SubprocessError, ValueError) as error:
        return repr(error)
    return "done"
# What is needed to try is there before it begins.
"""


class Place:
    """Directories of a node's, and one of somebody else's; a port that is listened on."""

    def __init__(self, tmp_path: Path) -> None:
        self.inside = tmp_path / "data"
        self.outside = tmp_path / "outside"
        self.inside.mkdir()
        self.outside.mkdir()
        (self.outside / "secret").write_text("secret")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0plexspaces-test-{os.getpid()}-{tmp_path.name}")
        self.abstract.listen()
        self.own, self.other = (self._free_port() for _ in range(2))

    def _free_port(self) -> int:
        with socket.create_server(("127.0.0.1", 0)) as free:
            return int(free.getsockname()[1])

    def run(self, confine: str, names: list[str] | None = None) -> dict[str, Any]:
        """What came of each attempt: "done", or the errno."""
        names_text = "list(tries)" if names is None else repr(names)
        script = f"""
INSIDE, OUTSIDE = {str(self.inside)!r}, {str(self.outside)!r}
LISTENING, OWN, OTHER = {self.listener.getsockname()[1]}, {self.own}, {self.other}
ABSTRACT = {self.abstract.getsockname()!r}
{ATTEMPTS}
{confine}
import json
os.write(1, json.dumps({{name: attempt(name) for name in {names_text}}}).encode())
os._exit(0)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers

    def dies_of(self, confine: str, name: str) -> int:
        script = f"INSIDE = OUTSIDE = {str(self.inside)!r}\n{ATTEMPTS}\n{confine}\nattempt({name!r})\nos._exit(7)\n"
        return subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60).returncode

    def hardened(self, *, strict: bool) -> str:
        return f"""
from pathlib import Path
from plexspaces_runtime.config import NodeConfig
from plexspaces_runtime.isolation import harden
config = NodeConfig(data_dir=Path(INSIDE), cache_dir=Path(INSIDE) / "cache", port=OWN, grpc=False)
os.environ["PLEXSPACES_CACHE_DIR"] = INSIDE + "/cache"
harden.make_directories(config)
assert harden.apply(harden.plan(config, strict={strict}), strict=True) == ()
"""


CONFINED = """
from pathlib import Path
from plexspaces_runtime.isolation import child
assert child.confined(Path(INSIDE)) == []
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.listener.close()
    made.abstract.close()


# What a node does all the time.
ALLOWED = {
    *("write inside", "read inside", "read python", "start python", "fork", "tcp socket", "unix socket", "connect"),
    *("listen on its port", "signal itself"),
}
# Of these a name alone says nothing: the superuser can do them, anybody else never could.
SUPERUSERS = {"set the user", "chown", "a capability", "shadow"}


def test_without_confinement_all_this_can_be_done(place: Place) -> None:
    """So that the tests below show what they say."""
    seen = place.run("open(INSIDE + '/new', 'w')")
    outside = {"read outside", "list outside", "write outside", "truncate outside", "start a shell", "by a link"}
    others = {"signal the parent", "abstract socket", "listen on another port", "start what was written"}
    assert {name for name in ALLOWED | outside | others if seen[name] != "done"} == set()


@needs_kernel
@pytest.mark.parametrize("strict", [False, True], ids=["on", "strict"])
def test_a_hardened_node_can_do_what_it_needs_and_nothing_else(place: Place, strict: bool) -> None:
    seen = place.run(place.hardened(strict=strict))
    done = {name for name, outcome in seen.items() if outcome == "done"}
    # Without strictness programs of the system can be started, with all that the node has lost.
    shell = set() if strict else {"start a shell"}
    assert done - SUPERUSERS - {"shadow"} == ALLOWED | shell
    assert (place.outside / "secret").read_text() == "secret"
    assert not (place.outside / "new").exists()
    if os.geteuid() == 0:
        assert {name: seen[name] for name in ("set the user", "chown", "a capability")} == {
            "set the user": 1,
            "chown": 1,
            "a capability": 1,
        }
    if strict:
        assert seen["shadow"] != "done"
    assert all(outcome == "done" or isinstance(outcome, int) or "Error" in outcome for outcome in seen.values())


@needs_kernel
def test_an_isolated_process_can_compute_and_read_compiled_components(place: Place) -> None:
    (place.inside / "new").write_text("compiled")
    fatal = {"fork", "start python", "start a shell", "start what was written", "ptrace", "process_vm_readv"}
    fatal |= {"pidfd_getfd", "mount", "chroot", "unshare", "setns", "bpf", "perf_event_open", "userfaultfd"}
    fatal |= {"io_uring", "keyctl", "kexec", "init_module", "open_by_handle_at"}
    prepared = "import plexspaces_runtime.isolation.syscalls\n" + CONFINED
    names = list(place.run("open(INSIDE + '/new', 'a')"))
    (place.inside / "new").write_text("compiled")
    seen = place.run(prepared, [name for name in names if name not in fatal])
    assert {name for name, outcome in seen.items() if outcome == "done"} == {"read inside"}
    for name in ("ptrace", "fork", "mount", "bpf", "start python"):
        assert place.dies_of(prepared, name) in (-signal.SIGSYS, 7 if name == "start python" else -signal.SIGSYS), name


@needs_kernel
def test_nothing_of_it_can_be_taken_back(place: Place) -> None:
    """Another filter, another ruleset: they can only take more."""
    more = """
from plexspaces_runtime.isolation import landlock, seccomp
from plexspaces_runtime.isolation.landlock import WRITE, Rules
landlock.restrict(Rules(paths=((Path("/"), WRITE),), scoped=False))
seccomp.install(seccomp.Policy(seccomp.ALLOW))
"""
    seen = place.run(place.hardened(strict=True) + more, ["read outside", "ptrace", "signal the parent", "read inside"])
    assert seen["read outside"] == 13
    assert seen["ptrace"] == 1
    assert seen["signal the parent"] == 1


@needs_kernel
def test_a_second_thread_is_refused_before_it_would_escape(place: Place) -> None:
    script = place.hardened(strict=True).replace(
        "assert harden.apply",
        "import threading\nevent = threading.Event()\nthreading.Thread(target=event.wait, daemon=True).start()\n"
        "harden.apply",
    ).replace(" == ()\n", "\n")
    full = f"INSIDE, OWN = {str(place.inside)!r}, {place.own}\nimport os\n{script}"
    done = subprocess.run([sys.executable, "-c", full], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "Landlock would hold one of 2 threads" in done.stderr


# -- whole nodes -------------------------------------------------------------------------------------------

Guest = Callable[[str], Path]


class Served:
    """A node of the command line's."""

    def __init__(self, data_dir: Path, *words: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
        self.env = {**clean, "PLEXSPACES_DATA_DIR": str(data_dir)}
        self.process = subprocess.Popen(
            [*CLI, "serve", *words, "--port", "0"], env=self.env, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []

    def said(self, wanted: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if wanted in line:
                return line
        raise AssertionError(f"the node never said {wanted!r}:\n{''.join(self.lines)}")

    def ask(self, *words: str) -> Any:
        done = subprocess.run([*CLI, "ask", *words], env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def status(self) -> dict[str, str]:
        return status(self.process.pid)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*words: str) -> Served:
        started.append(Served(tmp_path / "data", *words))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait(30)
        assert each.process.stderr is not None
        each.process.stderr.close()


def application(folder: Path, wasm: Path) -> Path:
    """An application in a process of its own."""
    shutil.copy(wasm, folder / "code.wasm")
    file = folder / "app-config.toml"
    file.write_text(
        """
[application]
name = "apart"
isolation = "process"
[[components]]
name = "code"
path = "code.wasm"
[supervisor]
[[supervisor.children]]
name = "echo"
actor_type = "code"
role = "echo"
[[supervisor.children]]
name = "sources"
actor_type = "code"
role = "sources"
"""
    )
    return file


@needs_kernel
@pytest.mark.guest
@pytest.mark.parametrize("level", ["on", "strict"])
def test_a_hardened_node_works(serve: Callable[..., Served], guest: Guest, tmp_path: Path, level: str) -> None:
    """It compiles, deploys, keeps, isolates and answers; and is confined, as its isolated application is even more."""
    node = serve(
        str(application(tmp_path, guest("zoo"))), f"--harden={level}", "--deploy", f"{guest('counter')}=counter"
    )
    child = int(node.said("process of apart has started").partition("pid ")[2].partition(")")[0])
    node.said("deployed application apart")
    assert node.ask("echo", "echo", "value=3") == 3
    # By two host calls and a wait.
    assert node.ask("sources", "sleep", "ms=20") >= 0.015
    assert node.ask("counter", "increment", "amount=2") == {"count": 2}
    assert "less hardened" not in "".join(node.lines)
    for pid, filters in ((node.process.pid, 1), (child, 2)):
        found = status(pid)
        assert (found["NoNewPrivs"], found["Seccomp"], int(found["Seccomp_filters"])) == ("1", "2", filters)
        assert (int(found["CapEff"], 16), int(found["CapBnd"], 16) if os.geteuid() == 0 else 0) == (0, 0)
        assert "Max core file size        0                    0" in Path(f"/proc/{pid}/limits").read_text()
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(30) == 0
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.guest
def test_a_node_that_is_killed_leaves_no_process(serve: Callable[..., Served], guest: Guest, tmp_path: Path) -> None:
    node = serve(str(application(tmp_path, guest("zoo"))))
    child = int(node.said("process of apart has started").partition("pid ")[2].partition(")")[0])
    node.said("deployed application apart")
    descriptor = os.pidfd_open(child)
    node.process.kill()
    node.process.wait(30)
    poll = __import__("select").poll()
    poll.register(descriptor, 1)
    # Readable once the process has ended.
    assert poll.poll(10_000)
    os.close(descriptor)


# -- systemd -----------------------------------------------------------------------------------------------


def test_the_unit_is_one_that_systemd_takes() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unknown" not in done.stderr, done.stderr


def test_the_unit_and_its_documentation_agree() -> None:
    page = (ROOT / "docs" / "hardening.md").read_text(encoding="utf-8")
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        key = line.partition("=")[0]
        if line.startswith(("Protect", "Restrict", "System", "Memory", "Delegate", "Load", "Dynamic", "NoNew")):
            assert f"`{key}`" in page, key
