"""Every error of ours has a row in the table of faults, and no row is without an error."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from http import HTTPStatus

import grpc  # type: ignore[import-untyped,unused-ignore]
import orjson
import pytest

import plexspaces_runtime
from plexspaces_runtime.api import faults
from plexspaces_runtime.api.faults import FAULTS, problem
from plexspaces_runtime.api.idempotency import NEVER_DONE
from plexspaces_runtime.errors import BusyError, CallerError, InternalError, PlexSpacesError


def _import_everything() -> None:
    for module in pkgutil.walk_packages(plexspaces_runtime.__path__, "plexspaces_runtime."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)


def _tree(cls: type[PlexSpacesError]) -> Iterator[type[PlexSpacesError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


_import_everything()
ERRORS = sorted(set(_tree(PlexSpacesError)), key=lambda cls: cls.__qualname__)


def make(cls: type[PlexSpacesError], message: str = "why", **details: object) -> PlexSpacesError:
    error = cls.__new__(cls)
    PlexSpacesError.__init__(error, message, **details)
    return error


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__qualname__)
def test_every_error_has_a_row(cls: type[PlexSpacesError]) -> None:
    answer = problem(make(cls))
    document = orjson.loads(answer.body)
    assert document["status"] == answer.status == FAULTS[cls.code].status
    assert document["code"] == cls.code
    assert document["type"] == f"urn:plexspaces:problem:{cls.code}"
    assert (b"content-type", b"application/problem+json") in answer.headers


def test_every_row_has_an_error() -> None:
    assert {cls.code for cls in ERRORS} == set(FAULTS)


@pytest.mark.parametrize(
    "cls", [cls for cls in ERRORS if issubclass(cls, CallerError) and cls is not CallerError], ids=lambda cls: cls.code
)
def test_a_callers_error_is_a_4xx_that_is_not_to_be_repeated(cls: type[PlexSpacesError]) -> None:
    assert 400 <= FAULTS[cls.code].status < 500
    assert FAULTS[cls.code].status != 429
    assert FAULTS[cls.code].retry_after_s == 0


@pytest.mark.parametrize(
    "cls", [cls for cls in ERRORS if issubclass(cls, BusyError) and cls is not BusyError], ids=lambda cls: cls.code
)
def test_a_busy_error_says_when_to_come_again(cls: type[PlexSpacesError]) -> None:
    fault = FAULTS[cls.code]
    assert fault.status in (429, 503, 504)
    assert (fault.retry_after_s > 0) == (fault.status != 504)


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_the_codes_of_both_protocols_exist(code: str) -> None:
    fault = FAULTS[code]
    assert HTTPStatus(fault.status).value == fault.status
    assert fault.grpc in grpc.StatusCode.__members__
    assert fault.grpc != "OK"


def test_what_is_never_recorded_are_codes() -> None:
    assert set(FAULTS) >= NEVER_DONE
    # After these, the work may have been done.
    assert not NEVER_DONE & {"deadline-exceeded", "handler-crashed", "handler-refused", "internal", "cancelled"}


@pytest.mark.parametrize(("retry_after_ms", "header"), [(1, b"1"), (1000, b"1"), (1001, b"2"), (-5, b"1"), ("x", b"1")])
def test_retry_after(retry_after_ms: object, header: bytes) -> None:
    error = make(next(cls for cls in ERRORS if cls.code == "rate-limited"), retry_after_ms=retry_after_ms)
    assert dict(problem(error).headers)[b"retry-after"] == header


def test_a_fault_of_the_node_keeps_its_text_to_itself() -> None:
    answer = problem(InternalError("hunter2", path="/etc/secret"), incident="i-1")
    assert b"hunter2" not in answer.body
    assert b"secret" not in answer.body
    assert b"i-1" in answer.body


def test_a_traceback_stays_inside() -> None:
    error = make(next(cls for cls in ERRORS if cls.code == "handler-crashed"), traceback="File x", exit="crashed")
    document = orjson.loads(problem(error).body)
    assert document["details"] == {"exit": "crashed"}


def test_details_that_are_not_json_do_not_hide_the_error() -> None:
    answer = problem(make(faults.UriTooLong, what={1: object()}))
    assert orjson.loads(answer.body)["code"] == "uri-too-long"
