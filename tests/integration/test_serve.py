"""`plexspaces serve` as a process: start, find, deploy, ask, stop; by the commands that the README prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest
CLI = [sys.executable, "-m", "plexspaces_runtime.cli"]


class Served:
    """A node of the command line's, and the other commands beside it."""

    def __init__(self, data_dir: Path, *words: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
        self.env = {**clean, "PLEXSPACES_DATA_DIR": str(data_dir)}
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*CLI, "serve", "--port", "0", *words], env=self.env, stderr=subprocess.PIPE, text=True
        )

    def said(self, wanted: str) -> str:
        """Read on until a line holds this."""
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if wanted in line:
                return line
        raise AssertionError(f"the node never said {wanted!r}:\n{''.join(lines)}")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*CLI, *words], env=self.env, capture_output=True, text=True, timeout=60)

    def ended(self) -> int:
        return self.process.wait(30)


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


def test_the_quick_start_by_the_commands(
    serve: Callable[..., Served], guest: Callable[[str], Path], tmp_path: Path
) -> None:
    node = serve("--deploy", f"{guest('counter')}=counter")
    url = node.said("listening on").split()[-1]
    node.said("deployed counter")
    assert json.loads((node.data_dir / "node.json").read_text())["url"] == url
    assert (node.data_dir / "token").stat().st_mode & 0o777 == 0o600

    assert json.loads(node.run("ask", "counter", "increment", "--amount", "5").stdout) == {"count": 5}
    assert node.run("tell", "counter", "increment").returncode == 0
    assert json.loads(node.run("ask", "counter", "get").stdout) == {"count": 6}
    assert "counter" in node.run("ps").stdout
    assert node.run("info", "counter").returncode == 0
    refused = node.run("ask", "counter", "increment", "--amuont", "5")
    assert refused.returncode == 1
    assert "amount" in refused.stderr
    assert node.run("ask", "nobody", "get").returncode == 1
    deployed = node.run("deploy", str(guest("counter")), "--type", "second")
    assert deployed.returncode == 0, deployed.stderr
    assert json.loads(node.run("ask", "second", "get").stdout) == {"count": 0}
    assert node.run("undeploy", "second").returncode == 0
    assert node.run("ask", "second", "get").returncode == 1
    stranger = node.run("token", "--tenant", "stranger").stdout.strip()
    node.env["PLEXSPACES_TOKEN"] = stranger
    assert node.run("ask", "counter", "get", "--tenant", "default").returncode == 4
    del node.env["PLEXSPACES_TOKEN"]

    second = serve()
    assert second.ended() == 1, "one data directory, one node"
    node.process.send_signal(signal.SIGTERM)
    assert node.ended() == 0
    assert not (node.data_dir / "node.json").exists()
    # By its address: without one, another node of this machine might answer on the usual port.
    node.env["PLEXSPACES_URL"] = url
    assert node.run("ps").returncode == 3


def busy(serve: Callable[..., Served], guest: Callable[[str], Path], ms: int) -> tuple[Served, subprocess.Popen[str]]:
    """A node, and a caller who waits for an answer that takes so long."""
    node = serve("--grace-s", "600")
    node.said("Ctrl-C stops")
    deployed = node.run("deploy", str(guest("zoo")), "--type", "echo", "--config", '{"role": "echo"}')
    assert deployed.returncode == 0, deployed.stderr
    words = [*CLI, "ask", "echo", "late", f"ms={ms}", "value=7"]
    caller = subprocess.Popen(words, env=node.env, stdout=subprocess.PIPE, text=True)
    while "idle" in node.run("ps").stdout:
        assert caller.poll() is None
    return node, caller


def test_the_first_signal_lets_running_messages_finish(
    serve: Callable[..., Served], guest: Callable[[str], Path]
) -> None:
    node, caller = busy(serve, guest, ms=2_000)
    node.process.send_signal(signal.SIGTERM)
    assert caller.communicate(timeout=30)[0] == "7\n"
    assert node.ended() == 0


def test_a_second_signal_stops_at_once(serve: Callable[..., Served], guest: Callable[[str], Path]) -> None:
    node, caller = busy(serve, guest, ms=250_000)
    node.process.send_signal(signal.SIGINT)
    node.said("stopping")
    node.process.send_signal(signal.SIGINT)
    assert node.ended() == 130
    caller.communicate(timeout=30)
    assert caller.returncode != 0


def test_a_port_that_is_taken_is_said(serve: Callable[..., Served], tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        node = serve("--port", port)
        node.said(f"port {port} of 127.0.0.1 is taken")
        assert node.ended() == 1


def test_serving_with_tls_and_grpc(serve: Callable[..., Served], tmp_path: Path) -> None:
    import grpc  # type: ignore[import-untyped,unused-ignore]

    from plexspaces_runtime.api.grpc.messages import message_class
    from tests.certificates import Authority

    authority = Authority(tmp_path / "pki")
    own, ada = authority.server(), authority.sign("ada", client=True)
    file = tmp_path / "node.toml"
    file.write_text(
        f'[tls]\ncert_file = "{own.certificate}"\nkey_file = "{own.key}"\n'
        f'client_auth = "required"\nclient_ca_file = "{authority.root}"\n'
    )
    node = serve("-c", str(file))
    url = node.said("listening on").split()[-1]
    where = node.said("gRPC on").split()[-1]
    assert url.startswith("https://127.0.0.1:")
    node.said("Ctrl-C stops")

    assert node.run("ps").returncode == 3, "the node wants a certificate"
    node.env |= {"PLEXSPACES_CLIENT_CERT_FILE": str(ada.certificate), "PLEXSPACES_CLIENT_KEY_FILE": str(ada.key)}
    found = node.run("ps")
    assert found.returncode == 0, found.stderr

    # From elsewhere: nothing is believed because of where it was found.
    node.env |= {"PLEXSPACES_URL": url.replace("127.0.0.1", "localhost")}
    node.env |= {"PLEXSPACES_TOKEN": (node.data_dir / "token").read_text().strip()}
    assert node.run("ps").returncode == 3, "nobody has vouched for the node's certificate"
    node.env |= {"PLEXSPACES_CA_FILE": str(authority.root)}
    assert node.run("ps").returncode == 0

    files = authority.root, ada.key, ada.certificate
    credentials = grpc.ssl_channel_credentials(*(each.read_bytes() for each in files))
    with grpc.secure_channel(where.replace("127.0.0.1", "localhost"), credentials) as channel:
        listed = channel.unary_unary("/plexspaces.v1.Actors/List")(
            b"", timeout=20, metadata=[("authorization", f"Bearer {node.env['PLEXSPACES_TOKEN']}")]
        )
        assert not message_class("plexspaces.v1.ListActorsReply").FromString(listed).actors

    authority.sign("localhost", dns=("localhost",), ips=("127.0.0.1",), file="server", days=400)
    node.process.send_signal(signal.SIGHUP)
    assert "399 days" in node.said("CN=localhost for 127.0.0.1, localhost, which expires in 399")
    assert node.run("ps").returncode == 0
    node.process.send_signal(signal.SIGTERM)
    assert node.ended() == 0


def test_a_node_that_others_can_connect_to_needs_tls_or_a_word(serve: Callable[..., Served]) -> None:
    node = serve("--host", "0.0.0.0")
    node.said("--insecure-plaintext")
    assert node.ended() == 1
    node = serve("--host", "0.0.0.0", "--insecure-plaintext")
    assert node.said("listening on").split()[-1].startswith("http://127.0.0.1:")
    node.process.send_signal(signal.SIGTERM)
    assert node.ended() == 0


def test_a_port_for_grpc_that_is_taken_is_said(serve: Callable[..., Served]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        node = serve("--grpc-port", str(taken.getsockname()[1]))
        node.said("for gRPC, is taken")
        assert node.ended() == 1
