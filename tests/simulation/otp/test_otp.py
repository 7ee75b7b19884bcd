"""The core against the model: the same random lives led through OTP's own supervisor, event by event.

`PLEXSPACES_OTP_SCENARIOS` sets how many, `PLEXSPACES_OTP_SEED` the first seed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.simulation.otp.harness import Tree
from tests.simulation.otp.scenarios import Add, Batch, Scenario, random_scenario

COUNT = int(os.environ.get("PLEXSPACES_OTP_SCENARIOS", "400"))
SEED = int(os.environ.get("PLEXSPACES_OTP_SEED", "0"))
PROGRAM = Path(__file__).parent / "otp_supervisor.erl"
TIMEOUT_S = 60 + COUNT // 20

# In memory: nothing is left in the directory of the sources.
LOAD = '{ok, M, B} = compile:file("%s", [binary]), {module, M} = code:load_binary(M, "", B), M:main("%s", "%s").'


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return [random_scenario(SEED + number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def traces(scenarios: list[Scenario], tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    if (erl := shutil.which("erl")) is None:
        pytest.skip("needs Erlang's own supervisor to compare with: install the Debian package erlang-base")
    directory = tmp_path_factory.mktemp("otp")
    told, heard = directory / "scenarios", directory / "traces"
    told.write_text("\n".join(scenario.term for scenario in scenarios))
    # One scheduler: the exit signals of a process then reach all who wait for them before anybody goes on.
    command = [erl, "-noshell", "+S", "1:1", "-eval", LOAD % (PROGRAM, told, heard), "-s", "erlang", "halt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *blocks = heard.read_text().split("scenario ")
    if head.strip() != "clock at_hand":
        pytest.skip("this Erlang's supervisor carries no abstract code: install the Debian package erlang-base")
    return [block.splitlines()[1:] for block in blocks]


def settled(lines: list[str], scenario: Scenario) -> list[str]:
    """Sort what OTP leaves to chance: the ends of dynamic children of one supervisor that are stopped together."""
    home = {
        operation.child.id: step.sup
        for step in scenario.steps
        if isinstance(step, Batch)
        for operation in step.operations
        if isinstance(operation, Add) and operation.dynamic
    }

    def together(line: str) -> tuple[int, str]:
        word, child_id, *_ = line.split()
        return (1, home[child_id]) if word == "exit" and child_id in home else (0, line)

    return [line for _, group in itertools.groupby(lines, together) for line in sorted(group)]


def test_the_core_does_what_otp_does(scenarios: list[Scenario], traces: list[list[str]]) -> None:
    compare(scenarios, traces, at_once=True)


def test_it_makes_no_difference_when_the_core_hears_of_what_has_happened(
    scenarios: list[Scenario], traces: list[list[str]]
) -> None:
    """But for a refused start: that is tried again behind all that is in the mailbox then."""
    compare(scenarios, traces, at_once=False)


def compare(scenarios: list[Scenario], traces: list[list[str]], *, at_once: bool) -> None:
    assert len(traces) == len(scenarios)
    for number, (scenario, theirs) in enumerate(zip(scenarios, traces, strict=True)):
        if not at_once and scenario.refuses:
            continue
        ours = Tree(scenario, at_once=at_once).run()
        expected, found = settled(theirs, scenario), settled(ours, scenario)
        assert found == expected, f"seed {SEED + number}:\n{scenario.term}\nOTP: {theirs}\nours: {ours}"


def test_the_scenarios_reach_what_they_are_about(scenarios: list[Scenario], traces: list[list[str]]) -> None:
    """So that an agreement on nothing does not pass for one."""
    words = [word for trace in traces for line in trace for word in [line.split()[0], line.split()[-1]]]
    for word in ("refused", "failed", "killed", "already_started", "already_present", "not_found", "running"):
        assert words.count(word) >= min(3, COUNT // 100), word
    ended = sum(trace[-1].startswith("exit s1") for trace in traces)
    assert ended > COUNT * 0.6
    assert sum(scenario.moves_time for scenario in scenarios) > COUNT * 0.3
