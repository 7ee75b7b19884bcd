"""Configuration: who wins, what is refused, and that everything wrong is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexspaces_runtime import config
from plexspaces_runtime.config import ConfigError, Limits, NodeConfig

HOME = {"HOME": "/home/ada"}


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return file


def issues_of(*args: object, **kwargs: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(*args, **kwargs)  # type: ignore[arg-type]
    issues: list[str] = caught.value.details["issues"]
    assert all(issue in str(caught.value) for issue in issues)
    return issues


def test_with_nothing_given_every_setting_has_its_default() -> None:
    loaded = config.load(env=HOME)
    assert loaded == NodeConfig(
        data_dir=Path("/home/ada/.local/share/plexspaces"), cache_dir=Path("/home/ada/.cache/plexspaces")
    )
    assert loaded.limits == Limits()


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, '[node]\nport = 1\ngrace_s = 1\nhost = "127.0.0.2"\n')
    env = {**HOME, "PLEXSPACES_PORT": "2", "PLEXSPACES_GRACE_S": "2.5"}
    loaded = config.load(file, env, {"port": 3, "host": None})
    assert (loaded.port, loaded.grace_s, loaded.host, loaded.tenant) == (3, 2.5, "127.0.0.2", "default")


def test_limits_and_auth_come_from_file_and_environment(tmp_path: Path) -> None:
    file = written(
        tmp_path, '[limits]\nmailbox_messages_max = 5\n[auth]\nalgorithms = ["RS256"]\njwks_file = "k.json"\n'
    )
    env = {**HOME, "PLEXSPACES_LIMITS_SLICE_MS": "7", "PLEXSPACES_AUTH_ISSUER": "https://me"}
    loaded = config.load(file, env)
    assert (loaded.limits.mailbox_messages_max, loaded.limits.slice_ms) == (5, 7)
    assert (loaded.auth.algorithms, loaded.auth.issuer) == (("RS256",), "https://me")
    assert loaded.auth.jwks_file == tmp_path / "k.json", "a path in the file is relative to the file"


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    file = written(tmp_path, "[node]\nport = 1\n\n[limits]\n# a comment\nmailbox_mesages_max = 5\n")
    [issue] = issues_of(file, HOME)
    assert issue == f"{file}:6: unknown key 'mailbox_mesages_max' in [limits]; did you mean 'mailbox_messages_max'?"


def test_an_unknown_table_is_refused_and_a_key_without_table_is_sent_home(tmp_path: Path) -> None:
    file = written(tmp_path, "port = 1\n[limit]\nslice_ms = 1\n")
    issues = issues_of(file, HOME)
    assert issues == [
        f"{file}:1: unknown table or key 'port'; it belongs into the table [node]",
        f"{file}:2: unknown table or key 'limit'; did you mean 'limits'?",
    ]


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, '[node]\nport = "x"\nhost = 5\n[limits]\nslice_ms = true\n')
    env = {**HOME, "PLEXSPACES_GRACE_S": "soon", "PLEXSPACES_LIMITS_SLICE_MSS": "1"}
    issues = issues_of(file, env, {"data_dir": ""})
    places = [issue.partition(": ")[0] for issue in issues]
    assert places == [
        f"{file}:2",
        f"{file}:3",
        f"{file}:5",
        "PLEXSPACES_GRACE_S",
        "PLEXSPACES_LIMITS_SLICE_MSS",
        "--data-dir",
    ]


@pytest.mark.parametrize(
    ("port", "good"), [(-1, False), (0, True), (65_535, True), (65_536, False), ("8080", False), (True, False)]
)
def test_ranges_hold_at_their_ends(port: object, good: bool) -> None:
    if good:
        assert config.load(env=HOME, flags={"port": port}).port == port
    else:
        assert len(issues_of(env=HOME, flags={"port": port})) == 1


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_a_number_of_seconds_is_finite(text: str) -> None:
    [issue] = issues_of(env={**HOME, "PLEXSPACES_GRACE_S": text})
    assert "finite" in issue


def test_an_empty_variable_is_not_set() -> None:
    assert config.load(env={**HOME, "PLEXSPACES_PORT": ""}).port == 8080


def test_variables_of_others_under_our_prefix_are_left_alone() -> None:
    # Kubernetes sets these in every pod beside a service called plexspaces.
    config.load(env={**HOME, "PLEXSPACES_SERVICE_HOST": "127.0.0.2", "PLEXSPACES_PORT_8080_TCP": "tcp://127.0.0.2"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[limits]\nask_timeout_ms = 300_001\n", "ask_timeout_ms"),
        ("[limits]\ncpu_ms_per_message_max = 1\nslice_ms = 2\n", "slice_ms"),
        ('[auth]\nalgorithms = ["RS265"]\n', "did you mean 'RS256'"),
        ('[auth]\njwks_url = "http://keys.example.com/"\n', "https"),
        ('[auth]\njwks_url = "https://a/"\njwks_file = "b"\n', "alternatives"),
        ('[node]\ntenant = "a b"\n', "tenant"),
        ("[node\n", "not a TOML file"),
    ],
)
def test_impossible_combinations_are_refused(tmp_path: Path, text: str, says: str) -> None:
    [issue] = issues_of(written(tmp_path, text), HOME)
    assert says in issue


def test_the_longest_ask_that_fits_into_a_message_is_accepted(tmp_path: Path) -> None:
    config.load(written(tmp_path, "[limits]\nask_timeout_ms = 300_000\n"), HOME)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    [issue] = issues_of(tmp_path / "none.toml", HOME)
    assert "cannot be read" in issue


def test_base_directories_follow_the_specification() -> None:
    assert config.default_data_dir({**HOME, "XDG_DATA_HOME": "/d"}) == Path("/d/plexspaces")
    assert config.default_data_dir({**HOME, "XDG_DATA_HOME": "rel"}) == Path("/home/ada/.local/share/plexspaces")
    assert config.default_data_dir({**HOME, "PLEXSPACES_DATA_DIR": "/x"}) == Path("/x")
    assert config.default_cache_dir({**HOME, "XDG_CACHE_HOME": "/c"}) == Path("/c/plexspaces")
    assert config.default_cache_dir({**HOME, "PLEXSPACES_CACHE_DIR": "/x"}) == Path("/x")


def test_every_setting_has_a_default_a_sentence_and_a_variable_of_its_own() -> None:
    known = list(config.settings())
    assert {"node", "auth", "egress", "limits", "tls"} <= {setting.table for setting in known}
    assert all(setting.doc.endswith(".") for setting in known)
    assert len({setting.environment for setting in known}) == len(known)


def test_every_limit_names_its_unit() -> None:
    units = (
        "bytes",
        "ms",
        "s",
        "messages",
        "calls",
        "lines",
        "actors",
        "slices",
        "threads",
        "components",
        "links",
        "monitors",
        "timers",
        "groups",
        "labels",
        "writes",
        "streams",
        "events",
        "schedules",
        "readers",
        "subscriptions",
        "keys",
        "blobs",
        "channels",
        "matches",
        "ids",
        "leases",
        "deliveries",
        "tuples",
        "workflows",
        "signals",
        "promises",
        "requests",
        "secrets",
        "credentials",
    )
    for setting in config.settings():
        if setting.table == "limits":
            assert set(setting.name.split("_")) & set(units), setting.name


# -- TLS and who can connect -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_this_machine_alone_needs_no_tls(host: str) -> None:
    assert config.load(env={}, flags={"host": host}).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "node.example.com", "localhost.example.com"])
def test_other_machines_need_tls_or_a_word(host: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.load(env={}, flags={"host": host})
    (issue,) = caught.value.details["issues"]
    assert "cert_file" in issue
    assert "--insecure-plaintext" in issue
    assert config.load(env={}, flags={"host": host, "insecure_plaintext": True}).insecure_plaintext
    secured = {"PLEXSPACES_TLS_CERT_FILE": "/c.pem", "PLEXSPACES_TLS_KEY_FILE": "/k.pem"}
    assert config.load(env=secured, flags={"host": host}).tls.on


@pytest.mark.parametrize(
    ("tls", "wrong"),
    [
        ({"CERT_FILE": "/c"}, "go together"),
        ({"KEY_FILE": "/k"}, "go together"),
        ({"CERT_FILE": "/c", "KEY_FILE": "/k", "CLIENT_AUTH": "maybe"}, "none, optional, required"),
        ({"CERT_FILE": "/c", "KEY_FILE": "/k", "CLIENT_AUTH": "required"}, "client_ca_file"),
        ({"CLIENT_CA_FILE": "/a", "CLIENT_AUTH": "required"}, "cert_file"),
        ({"CERT_FILE": "/c", "KEY_FILE": "/k", "CLIENT_NAMES": "ada"}, "mean nothing"),
    ],
)
def test_tls_that_contradicts_itself(tls: dict[str, str], wrong: str) -> None:
    with pytest.raises(config.ConfigError, match=wrong):
        config.load(env={f"PLEXSPACES_TLS_{name}": value for name, value in tls.items()})


def test_a_port_that_is_chosen_chooses_both() -> None:
    assert config.load(env={}).grpc_port == 9090
    assert config.load(env={}, flags={"port": 0}).grpc_port == 0
    assert config.load(env={"PLEXSPACES_GRPC_PORT": "9191"}, flags={"port": 0}).grpc_port == 9191


@pytest.mark.parametrize(("text", "is_there"), [("true", True), ("false", False)])
def test_grpc_can_be_left_out(text: str, is_there: bool) -> None:
    assert config.load(env={"PLEXSPACES_GRPC": text}).grpc is is_there


@pytest.mark.parametrize("text", ["no", "1", "True"])
def test_a_choice_is_true_or_false(text: str) -> None:
    with pytest.raises(config.ConfigError, match="must be true or false"):
        config.load(env={"PLEXSPACES_GRPC": text})


def test_a_tenant_has_quotas_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        "[limits]\nrequests_burst_per_tenant = 7\n"
        "[quotas.acme]\nrequests_per_second_per_tenant_max = 5\n"
        '[quotas."big.corp"]\nrequests_burst_per_tenant = 100\n'
    )
    loaded = config.load(file, {})
    assert set(loaded.quotas) == {"acme", "big.corp"}
    acme, big = loaded.quotas["acme"], loaded.quotas["big.corp"]
    assert (acme.requests_per_second_per_tenant_max, acme.requests_burst_per_tenant) == (5.0, 7)
    assert (big.requests_per_second_per_tenant_max, big.requests_burst_per_tenant) == (20_000.0, 100)


def test_quotas_that_are_wrong_are_refused_at_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        "[quotas.acme]\nrequests_burst_per_tenant = 0\nmemory_bytes_max = 1\n"
        '[quotas."a b"]\nrequests_burst_per_tenant = 1\n'
        "[quotas]\nother = 3\n"
    )
    with pytest.raises(config.ConfigError) as raised:
        config.load(file, {})
    issues = [issue.removeprefix(f"{file}:") for issue in raised.value.details["issues"]]
    assert issues[0] == "2: requests_burst_per_tenant = 0: must be at least 1"
    unknown = "3: unknown key 'memory_bytes_max' in [quotas.acme]; known are requests_burst_per_actor"
    assert issues[1].startswith(unknown)
    assert issues[2].endswith("write [quotas.TENANT] and its keys below it")
    assert issues[3].startswith("7: quotas are one table for each tenant")


def test_audit_is_off_or_effects() -> None:
    assert config.load(None, {"PLEXSPACES_AUDIT": "effects"}).audit == "effects"
    with pytest.raises(config.ConfigError, match="audit 'all' is not known"):
        config.load(None, {"PLEXSPACES_AUDIT": "all"})
