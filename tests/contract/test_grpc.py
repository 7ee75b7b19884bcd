"""proto = HTTP = gRPC: descriptors as the .proto files are, operations, fields and errors as HTTP has them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf import descriptor_pb2

from plexspaces_runtime.api.faults import FAULTS, problem
from plexspaces_runtime.api.grpc.messages import DESCRIPTORS, SERVICES
from plexspaces_runtime.api.grpc.server import _status
from plexspaces_runtime.api.grpc.table import NOT_HERE, RPCS, Rpc
from plexspaces_runtime.api.openapi import document
from plexspaces_runtime.api.routes import ROUTES, Route
from tests.contract.test_faults import ERRORS, make

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = document()
BY_OPERATION = {route.operation: route for route in ROUTES}
ALL = [(service, name, rpc) for service, rpcs in RPCS.items() for name, rpc in rpcs.items()]
IDS = [f"{service.rpartition('.')[2]}.{name}" for service, name, _ in ALL]
# What HTTP needs, and gRPC says in another way: the tenant is the token's, a wait is the deadline, live is Follow.
SAID_OTHERWISE = {"tenant", "wait", "live"}


def _files(path: Path) -> dict[str, bytes]:
    found = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file
    return {each.name: each.SerializeToString(deterministic=True) for each in found}


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "generate-proto"
    loader = importlib.machinery.SourceFileLoader("generate_proto", str(script))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    output = tmp_path / "now.protoset"
    assert module.generate(output) == 0
    assert _files(output) == _files(DESCRIPTORS), "run scripts/generate-proto"


def test_the_services_of_the_proto_files_are_served() -> None:
    assert {name: set(service.methods_by_name) for name, service in SERVICES.items()} == {
        name: set(rpcs) for name, rpcs in RPCS.items()
    }


def test_every_operation_has_its_rpc_or_a_reason() -> None:
    here = {rpc.operation.removesuffix("_by_key") for _, _, rpc in ALL}
    operations = {route.operation.removesuffix("_by_key") for route in ROUTES}
    without = {name.removesuffix("_by_key") for name in NOT_HERE}
    assert here & without == set()
    assert operations - here - without == set(), "give it an RPC, or say in NOT_HERE why it has none"
    assert (here | without) - operations == set()
    assert all(len(reason) > 10 for reason in NOT_HERE.values())


# -- fields ------------------------------------------------------------------------------------------------


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref", "")
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]] if reference else schema
    return found


def _plain(name: str) -> str:
    return name.removesuffix("_json")


def _sent(route: Route) -> set[str]:
    """The names of what a request of HTTP's may hold, headers left out."""
    names = {each.name for each in route.parameters if each.where in ("path", "query")}
    for schema in (route.body or {}).values():
        names |= set(schema.get("properties", ()))
    return names - SAID_OTHERWISE


@pytest.mark.parametrize(("service", "name", "rpc"), ALL, ids=IDS)
def test_a_request_says_what_http_says(service: str, name: str, rpc: Rpc) -> None:
    method = SERVICES[service].methods_by_name[name]
    if method.client_streaming:
        return
    fields = set(method.input_type.fields_by_name)
    named = {_plain(each) for each in fields if each != rpc.text}
    missing = _sent(BY_OPERATION[rpc.operation]) - named
    if name == "Follow":
        # It gets everything.
        missing -= {"limit"}
    assert missing == set()
    assert named - _sent(BY_OPERATION[rpc.operation]) == set()
    assert not rpc.text or rpc.text in fields


@pytest.mark.parametrize("name", ["Deploy", "Check", "DeployApplication"])
def test_a_stream_says_what_the_form_says(name: str) -> None:
    method = SERVICES["plexspaces.v1.Deployments"].methods_by_name[name]
    (schema,) = (BY_OPERATION[RPCS["plexspaces.v1.Deployments"][name].operation].body or {}).values()
    fields = set(method.input_type.fields_by_name)
    if name == "DeployApplication":
        assert fields == {*schema["properties"], "component", "end"}
        return
    # `check` is an RPC of its own.
    head = {_plain(each) for each in method.input_type.fields_by_name["head"].message_type.fields_by_name}
    assert head | fields - {"head", "end"} == set(schema["properties"]) - {"check"}


def _compare(descriptor: Any, schema: dict[str, Any], seen: frozenset[str]) -> None:
    properties = _schema(schema)["properties"]
    where = descriptor.full_name
    assert {_plain(each) for each in descriptor.fields_by_name} == set(properties), where
    for field in descriptor.fields:
        if field.name.endswith("_json"):
            continue
        inner = properties[field.name]
        kinds = {
            "string": field.cpp_type == field.CPPTYPE_STRING,
            "integer": field.cpp_type == field.CPPTYPE_INT64,
            "number": field.cpp_type == field.CPPTYPE_DOUBLE,
            "boolean": field.cpp_type == field.CPPTYPE_BOOL,
            "array": True,
            "object": field.message_type is not None,
        }
        kind = inner.get("type", "object")
        assert kinds[kind[0] if isinstance(kind, list) else kind], f"{where}.{field.name}"
        element = field.message_type
        is_map = element is not None and element.GetOptions().map_entry
        if element is not None and not is_map and element.full_name not in seen:
            _compare(element, inner.get("items", inner), seen | {element.full_name})


@pytest.mark.parametrize(("service", "name", "rpc"), ALL, ids=IDS)
def test_a_reply_says_what_http_answers(service: str, name: str, rpc: Rpc) -> None:
    method = SERVICES[service].methods_by_name[name]
    if rpc.reply:
        assert set(method.output_type.fields_by_name) == {rpc.reply}
        return
    if name == "Follow":
        schema: dict[str, Any] | None = {"$ref": "#/components/schemas/StreamEvent"}
    else:
        # Tell is the other half of an operation that may also be an ask, and Check of one that deploys.
        successes = BY_OPERATION[rpc.operation].success
        wanted = {"Tell": 202, "Check": 200, "Start": 202}.get(name, successes[0].status)
        (success,) = (each for each in successes if each.status == wanted)
        schema = None if success.schema is None else dict(success.schema)
    if schema is None:
        assert not method.output_type.fields
    else:
        _compare(method.output_type, schema, frozenset({method.output_type.full_name}))


# -- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__qualname__)
def test_an_error_is_told_alike(cls: Any) -> None:
    answer = problem(make(cls, "why", retry_after_ms=1500))
    code, message, trailing = _status(answer)
    assert code.name == FAULTS[cls.code].grpc
    told = dict(trailing)
    assert told["plexspaces-code"] == cls.code
    document_ = orjson.loads(told["plexspaces-problem-bin"])
    assert document_ == orjson.loads(answer.body)
    assert message == document_["detail"]
    assert told.get("retry-after", "").encode() == dict(answer.headers).get(b"retry-after", b"")


def test_an_error_with_much_to_say_arrives_all_the_same() -> None:
    error = make(next(cls for cls in ERRORS if cls.code == "invalid-argument"), "é" * 5000, issues=["x" * 100] * 500)
    code, message, trailing = _status(problem(error))
    size = sum(len(name) + len(value) for name, value in trailing) + len(message.encode()) * 3
    assert code.name == "INVALID_ARGUMENT"
    assert size < 8 * 1024
    assert message.startswith("é")


# -- documentation -----------------------------------------------------------------------------------------


def test_every_rpc_is_documented_with_its_operation() -> None:
    page = (ROOT / "docs" / "grpc.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| `(\w+)` `([^`]+)` \|", page, re.MULTILINE)
    found = {f"{service}.{name}": (method, path) for service, name, method, path in rows}
    expected = {}
    for service, name, rpc in ALL:
        route = BY_OPERATION[rpc.operation]
        expected[f"{service.rpartition('.')[2]}.{name}"] = (route.method, route.path)
    assert found == expected


def test_every_reason_is_documented() -> None:
    page = " ".join((ROOT / "docs" / "grpc.md").read_text(encoding="utf-8").split())
    for reason in NOT_HERE.values():
        assert reason in page, reason
