"""Tools: what the registry lets through, and what each of them makes of what it gets."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces import HostError, actor, handler, state
from plexspaces.testing import TestNode

from .conftest import audited


@actor(facets=["virtual_actor"])
class Weather:
    """A stand-in that knows one place, and crashes at another."""

    asked: list = state(default_factory=list)

    @handler("execute")
    def execute(self, location: str) -> dict:
        if location == "Atlantis":
            raise RuntimeError("it sank")
        self.asked.append(location)
        return {"result": f"sunny in {location}"}


@actor(facets=["virtual_actor"])
class FakeAgent:
    """An agent as far as the registry can see."""

    @handler("call")
    def call(self, calls: list, session_id: str, approved: list | None = None) -> list:
        from plexspaces import host

        payload = {"calls": calls, "session_id": session_id, "approved": approved or []}
        results: list = host.ask(f"tool_registry/{session_id}", "execute_tools", payload)["results"]
        return results


@pytest.fixture
def node() -> TestNode:
    from claw.memory import MemoryActor  # type: ignore[import-not-found]
    from claw.registry import ToolRegistryActor  # type: ignore[import-not-found]
    from claw.tools.calculator import CalculatorToolActor  # type: ignore[import-not-found]
    from claw.tools.python import PythonRunnerActor, PythonSandboxActor  # type: ignore[import-not-found]

    made = TestNode()
    made.deploy("tool_registry", ToolRegistryActor, shared_keys=True)
    made.deploy("weather", Weather)
    made.deploy("agent", FakeAgent)
    made.deploy("python_runner", PythonRunnerActor)
    made.deploy("python_sandbox", PythonSandboxActor)
    made.spawn(CalculatorToolActor, actor_type="calculator")
    made.spawn(MemoryActor, actor_type="memory")
    return made


def run(node: TestNode, name: str, roles: tuple[str, ...] = (), session: str = "s1", **input_: Any) -> dict[str, Any]:
    reply: dict[str, Any] = node.ask(
        f"tool_registry/{session}", "execute_tool", {"name": name, "input": input_, "session_id": session}, roles=roles
    )
    return reply


# -- the registry -------------------------------------------------------------------------------------------


def test_a_tool_is_found_checked_and_run(node: TestNode) -> None:
    assert run(node, "calculator", expression="6 * 7") == {"result": 42}
    assert run(node, "weather", location="Oslo") == {"result": "sunny in Oslo"}
    assert [event["detail"]["name"] for event in audited(node, "tool_called")] == ["calculator", "weather"]


@pytest.mark.parametrize(
    ("name", "input_", "words"),
    [
        ("teleport", {}, "there is no tool 'teleport'; there are calculator"),
        ("calculator", {}, "input.expression is missing"),
        ("calculator", {"expression": 7}, "input.expression is not of type string"),
        ("calculator", {"expression": "1", "precision": 3}, "input.precision is not known; there are expression"),
        ("web_search", {"query": "x", "limit": 99}, "input.limit is at most 10"),
        ("web_search", {"query": "x", "limit": True}, "input.limit is not of type integer"),
    ],
)
def test_what_does_not_fit_is_an_error_that_a_model_can_act_on(
    node: TestNode, name: str, input_: dict[str, Any], words: str
) -> None:
    reply = node.ask("tool_registry", "execute_tool", {"name": name, "input": input_})
    assert words in reply["error"]


def test_calls_run_together_and_each_has_its_own_answer(node: TestNode) -> None:
    calls = [
        {"id": "a", "name": "calculator", "input": {"expression": "1+1"}},
        {"id": "b", "name": "weather", "input": {"location": "Atlantis"}},
        {"id": "c", "name": "nothing", "input": {}},
        {"id": "d", "name": "weather", "input": {}, "invalid": "the arguments are not JSON"},
        {"id": "e", "name": "weather", "input": {"location": "Rome"}},
    ]
    results = {each["id"]: each for each in node.ask("agent/s1", "call", {"calls": calls, "session_id": "s1"})}
    assert results["a"]["content"] == {"result": 2}
    assert "weather failed" in results["b"]["content"]["error"]
    assert "there is no tool" in results["c"]["content"]["error"]
    assert results["d"]["content"]["error"] == "the arguments are not JSON"
    assert results["e"]["content"] == {"result": "sunny in Rome"}
    assert [results[id_]["ok"] for id_ in "abcde"] == [True, False, False, False, True]


def test_a_tool_that_crashes_harms_nobody_else(node: TestNode) -> None:
    run(node, "weather", location="Atlantis")
    assert run(node, "weather", location="Oslo") == {"result": "sunny in Oslo"}


def test_tools_come_and_go_at_run_time_for_all_sessions(node: TestNode) -> None:
    made = node.ask(
        "tool_registry",
        "register_tool",
        {"name": "sky", "actor": "weather", "input_schema": {"location": "string"}},
        roles=["admin"],
    )
    assert made == {"status": "ok", "name": "sky"}
    assert run(node, "sky", session="s2", location="Oslo") == {"result": "sunny in Oslo"}
    listed = node.ask("tool_registry/s3", "list_tools")["tools"]
    sky = next(tool for tool in listed if tool["name"] == "sky")
    assert sky["input_schema"]["properties"] == {"location": {"type": "string"}}
    node.ask("tool_registry", "remove_tool", {"name": "calculator"}, roles=["admin"])
    assert "there is no tool" in run(node, "calculator", expression="1")["error"]


def test_only_those_who_may_register_tools_do(node: TestNode) -> None:
    for op, payload in (("register_tool", {"name": "x"}), ("remove_tool", {"name": "calculator"})):
        with pytest.raises(HostError):
            node.ask("tool_registry", op, payload, roles=["user"])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "oneOf": []},
        {"type": "object", "properties": {"a": {"type": "strin"}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}},
        {"type": "object", "properties": {"a": []}},
    ],
)
def test_a_schema_that_would_not_be_checked_is_refused(node: TestNode, schema: dict[str, Any]) -> None:
    reply = node.ask("tool_registry", "register_tool", {"name": "x", "input_schema": schema}, roles=["admin"])
    assert "input_schema" in reply["error"]


def test_a_tool_for_a_role_is_not_there_for_others(node: TestNode) -> None:
    tool = {"name": "sky", "actor": "weather", "input_schema": {"location": "string"}, "roles": ["pilot"]}
    node.ask("tool_registry", "register_tool", tool, roles=["admin"])
    assert "there is no tool" in run(node, "sky", location="Oslo")["error"]
    assert "sky" not in [each["name"] for each in node.ask("tool_registry", "list_tools")["tools"]]
    assert run(node, "sky", roles=("pilot",), location="Oslo") == {"result": "sunny in Oslo"}
    assert [event["detail"]["reason"] for event in audited(node, "tool_refused")] == ["role"]


def test_a_tool_has_so_many_calls_a_minute(node: TestNode) -> None:
    tool = {"name": "sky", "actor": "weather", "input_schema": {"location": "string"}, "rate_per_minute": 2}
    node.ask("tool_registry", "register_tool", tool, roles=["admin"])
    answers = [run(node, "sky", location="Oslo") for _ in range(3)]
    assert ["error" in answer for answer in answers] == [False, False, True]
    assert "error" not in run(node, "sky", session="s2", location="Oslo")
    node.advance(61)
    assert "error" not in run(node, "sky", location="Oslo")


def test_what_needs_approval_is_not_run_without_and_nobody_but_an_agent_says_it_has_it(node: TestNode) -> None:
    tool = {"name": "sky", "actor": "weather", "input_schema": {"location": "string"}, "approval": "required"}
    node.ask("tool_registry", "register_tool", tool, roles=["admin"])
    assert "needs a person's approval" in run(node, "sky", location="Oslo")["error"]
    call = {"id": "c1", "name": "sky", "input": {"location": "Oslo"}}
    payload = {"calls": [call], "session_id": "s1", "approved": ["c1"]}
    with pytest.raises(HostError) as refused:
        node.ask("tool_registry/s1", "execute_tools", payload)
    assert refused.value.details["reason"] == "not-an-agent"
    (waits,) = node.ask("agent/s1", "call", {"calls": [call], "session_id": "s1"})
    assert waits == {"id": "c1", "name": "sky", "approval": True}
    (ran,) = node.ask("agent/s1", "call", {"calls": [call], "session_id": "s1", "approved": ["c1"]})
    assert ran["content"] == {"result": "sunny in Oslo"}


def test_every_call_that_is_refused_is_on_record_and_why(node: TestNode) -> None:
    node.ask(
        "tool_registry", "register_tool", {"name": "weather", "actor": "weather", "roles": ["pilot"]}, roles=["admin"]
    )
    calls = [
        {"id": "1", "name": "no_such", "input": {"x": 1}},
        {"id": "2", "name": "weather", "input": {}},
        {"id": "3", "name": "calculator", "input": {}},
        {"id": "4", "name": "calculator", "input": {}, "invalid": "the arguments are not JSON"},
        *({"id": str(number), "name": "no_such", "input": {}} for number in range(5, 30)),
    ]
    node.ask("tool_registry/s1", "execute_tools", {"calls": calls, "session_id": "s1"}, subject="ada")
    refused = audited(node, "tool_refused")
    assert {each["subject"] for each in refused} == {"ada"}
    reasons = [(each["detail"]["name"], each["detail"]["reason"]) for each in refused]
    assert reasons[:4] == [
        ("no_such", "unknown-tool"),
        ("weather", "role"),
        ("calculator", "invalid-input"),
        ("calculator", "invalid-input"),
    ]
    # Of those that are too many one entry tells.
    assert reasons[4:] == [("no_such", "unknown-tool")] * 12 + [("no_such", "too-many")]
    assert refused[0]["detail"]["input"] == '{"x": 1}'


def test_a_tool_is_registered_over_http_where_op_is_the_registration_itself(node: TestNode) -> None:
    asked = {"name": "forecast", "actor": "weather", "op": "register_tool", "operation": "forecast"}
    node.ask("tool_registry", "register_tool", asked, roles=["admin"])
    assert "forecast" in run(node, "forecast")["error"]
    node.ask("tool_registry", "register_tool", {**asked, "operation": "", "name": "plain",
             "input_schema": {"location": "string"}}, roles=["admin"])  # fmt: skip
    assert run(node, "plain", location="Oslo") == {"result": "sunny in Oslo"}


def test_a_model_cannot_choose_whose_memory_a_tool_works_on(node: TestNode) -> None:
    run(node, "memory_store", key="colour", value="blue")
    stolen = run(node, "memory_search", session="s2", query="colour", session_id="s1")
    assert "input.session_id is not known" in stolen["error"]
    assert run(node, "memory_search", session="s2", query="colour")["result"] == "nothing is remembered about that"
    assert run(node, "memory_search", query="colour")["result"][0]["value"] == "blue"


# -- the calculator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("2^10", 1024),
        ("7 // 2", 3),
        ("7 % 4", 3),
        ("-7 / 2", -3.5),
        ("sqrt(2)", math.sqrt(2)),
        ("max(1, 2, 3) - min(4, 5)", -1),
        ("1e3", 1000.0),
        (".5 * 4", 2.0),
        ("2 ** 0.5", 2**0.5),
        ("10 ** 100", 10**100),
        ("--3", 3),
        ("pi", math.pi),
        ("2 ** -1", 0.5),
    ],
)
def test_arithmetic(text: str, value: float) -> None:
    from claw.tools.calculator import evaluate  # type: ignore[import-not-found]

    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "(1",
        "1)",
        "1 1",
        "a",
        "__import__('os')",
        "1; 2",
        "1 / 0",
        "0 ** -1",
        "9 ** 9 ** 9",
        "2 ** 99999999",
        "sqrt(-1)",
        "(-1) ** 0.5",
        "log(0)",
        "exp(9999)",
        "(" * 500 + "1" + ")" * 500,
        "-" * 900 + "1",
        "1e999",
        "[1]",
        "'a' * 9",
        "1 if 1 else 2",
        "lambda: 0",
        "print(1)",
        "round(1, 2, 3)",
        "x" * 2000,
        "1 == 1",
        "0x10",
        "1_000",
    ],
)
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    from claw.tools.calculator import Wrong, evaluate

    with pytest.raises(Wrong):
        evaluate(text)


@given(text=st.text(alphabet="0123456789+-*/%^(). ,sqrtmaxpie", max_size=60))
def test_no_text_makes_the_calculator_do_anything_but_calculate(text: str) -> None:
    from claw.tools.calculator import Wrong, evaluate

    try:
        value = evaluate(text)
    except Wrong:
        return
    assert isinstance(value, int | float)
    assert not isinstance(value, float) or math.isfinite(value)


@given(
    left=st.integers(-(10**6), 10**6),
    right=st.integers(-(10**6), 10**6),
    operator=st.sampled_from(["+", "-", "*", "//", "%"]),
)
def test_whole_numbers_stay_exact(left: int, right: int, operator: str) -> None:
    from claw.tools.calculator import Wrong, evaluate

    text = f"({left}) {operator} ({right})"
    if right == 0 and operator in ("//", "%"):
        with pytest.raises(Wrong):
            evaluate(text)
    else:
        assert evaluate(text) == eval(text)


# -- Python ------------------------------------------------------------------------------------------------


def test_code_prints_and_has_a_value(node: TestNode) -> None:
    reply = run(node, "run_python", code="print('hi')\nx = 20\nx * 2 + 2")
    assert reply["result"] == {"stdout": "hi\n", "value": "42"}


def test_code_that_raises_gives_its_traceback(node: TestNode) -> None:
    reply = run(node, "run_python", code="def f():\n    return 1 / 0\nf()")
    assert "ZeroDivisionError" in reply["error"]
    assert 'File "<code>", line 2' in reply["error"]


def test_code_that_is_none_says_where(node: TestNode) -> None:
    assert "SyntaxError" in run(node, "run_python", code="def f(:")["error"]


def test_what_code_wanted_and_may_not_have_is_on_record_whatever_it_says(node: TestNode) -> None:
    code = (
        "from plexspaces import SandboxError\ntry:\n    raise SandboxError('no files')\nexcept Exception:\n    pass\n7"
    )
    assert run(node, "run_python", code=code) == {"result": {"stdout": "", "value": "7"}}
    (event,) = audited(node, "sandbox_refused")
    assert (event["session_id"], event["detail"]["refused"]) == ("s1", ["no files"])
    assert event["detail"]["code"] == code
    # The next piece of code has nothing to do with it.
    run(node, "run_python", code="1")
    assert len(audited(node, "sandbox_refused")) == 1


def test_of_what_code_was_refused_so_much_is_told(node: TestNode) -> None:
    loop = "from plexspaces import SandboxError\nfor n in range({}):\n    SandboxError('x' * 1000)"
    for many, told in ((19, 19), (20, 20), (21, 20)):
        run(node, "run_python", code=loop.format(many), session=f"of-{many}")
        (event,) = (each for each in audited(node, "sandbox_refused") if each["session_id"] == f"of-{many}")
        assert [len(each) for each in event["detail"]["refused"]] == [200] * told


def test_code_that_ends_its_own_actor_is_on_record(node: TestNode) -> None:
    assert "error" in run(node, "run_python", code="raise MemoryError")
    assert [each["session_id"] for each in audited(node, "sandbox_ended")] == ["s1"]


def test_each_piece_of_code_begins_with_nothing_and_leaves_nobody_behind(node: TestNode) -> None:
    run(node, "run_python", code="leftover = 1")
    assert "NameError" in run(node, "run_python", code="leftover")["error"]
    assert [exit_.actor_id for exit_ in node.exits if exit_.actor_id.startswith("python_runner/")] != []
    assert [exit_.reason for exit_ in node.exits] == ["shutdown", "shutdown"]


# -- the world ---------------------------------------------------------------------------------------------


@pytest.fixture
def world(node: TestNode) -> TestNode:
    from claw.tools.web import HttpGetToolActor, WeatherToolActor, WebSearchToolActor  # type: ignore[import-not-found]

    node.deploy("weather", WeatherToolActor)
    node.deploy("web_search", WebSearchToolActor)
    node.deploy("http_get", HttpGetToolActor, args={"links": ["docs"]})
    return node


def test_without_a_link_a_tool_says_what_is_missing(world: TestNode) -> None:
    assert "[links.weather]" in run(world, "weather", location="Oslo")["error"]
    assert "[links.search]" in run(world, "web_search", query="actors")["error"]


def test_the_weather_comes_through_its_link(world: TestNode) -> None:
    now = {"temp_C": "7", "weatherDesc": [{"value": "Light rain "}], "humidity": "93", "windspeedKmph": "11"}
    asked = []

    def answer(request: Any) -> Any:
        asked.append(request.path)
        return {"current_condition": [now]}

    world.http("weather", answer)
    assert run(world, "weather", location="Bad Aibling/..")["result"] == {
        "location": "Bad Aibling/..",
        "temperature_c": 7.0,
        "condition": "Light rain",
        "humidity_percent": 93,
        "wind_kmh": 11.0,
    }
    assert asked == ["/Bad%20Aibling%2F..?format=j1"]


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"current_condition": []}', '{"current_condition": [{}]}'])
def test_an_answer_that_is_not_the_weather_is_said_to_be_none(world: TestNode, body: str) -> None:
    world.http("weather", lambda request: body)
    assert "something else than the weather" in run(world, "weather", location="Oslo")["error"]


def test_search_results_are_cut_to_size(world: TestNode) -> None:
    results = [{"title": f"t{n}", "url": "http://x", "content": "c" * 9000} for n in range(30)]
    world.http("search", lambda request: {"results": results})
    found = run(world, "web_search", query="actors", limit=3)["result"]
    assert [each["title"] for each in found] == ["t0", "t1", "t2"]
    assert len(found[0]["snippet"]) == 500


def test_pages_come_from_the_links_that_are_listed_and_from_no_other(world: TestNode) -> None:
    world.http("docs", lambda request: "<html><script>x()</script><h1>Hello</h1> <p>you</p></html>")
    world.http("secret", lambda request: "no")
    assert run(world, "http_get", link="docs", path="/a")["result"] == "Hello you"
    assert "not allowed; allowed are: docs" in run(world, "http_get", link="secret")["error"]


# -- schemas -----------------------------------------------------------------------------------------------

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(value=_VALUES)
def test_a_value_fits_the_schema_that_describes_it(value: Any) -> None:
    from claw.tools.schema import check, problems  # type: ignore[import-not-found]

    def describe(each: Any) -> dict[str, Any]:
        match each:
            case None:
                return {"type": "null"}
            case bool():
                return {"type": "boolean"}
            case int():
                return {"type": "integer", "minimum": each, "maximum": each}
            case float():
                return {"type": "number"}
            case str():
                return {"type": "string", "minLength": len(each), "maxLength": len(each), "enum": [each]}
            case list():
                return {"type": "array", "minItems": len(each), "maxItems": len(each)}
        return {
            "type": "object",
            "properties": {name: describe(item) for name, item in each.items()},
            "required": list(each),
            "additionalProperties": False,
        }

    schema = describe(value)
    assert check(schema) == ""
    assert problems(value, schema) == []
    if isinstance(value, dict):
        assert problems({**value, "z": 1}, schema) == [f"input.z is not known; there are {', '.join(value) or 'none'}"]
        for name in value:
            assert problems({key: item for key, item in value.items() if key != name}, schema) != []
    assert json.dumps(schema)
