"""How much one tenant, caller or actor may ask: whose limit it is, when to come back, and what is forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from plexspaces_runtime.api.admission import Admission
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import RateLimited
from plexspaces_runtime.scope import Address, Scope

WIDE = Limits()
ORDERS = Address(Scope("acme", "default"), "orders")


def door(clock: ManualClock | None = None, quotas: dict[str, dict[str, Any]] | None = None, **limits: Any) -> Admission:
    general = replace(WIDE, **limits)
    own = {tenant: replace(general, **each) for tenant, each in (quotas or {}).items()}
    return Admission(clock or ManualClock(), general, own)


def let_in(admission: Admission, tenant: str, subject: str = "ada", actor: Address | None = None) -> str:
    """"" for a request that is let in and answered at once, else the limit that was reached."""
    try:
        admission.enter(tenant, subject, actor)
    except RateLimited as refused:
        return str(refused.details["limit"])
    admission.leave(tenant)
    return ""


def test_a_tenant_has_its_rate_whoever_calls_and_another_has_its_own() -> None:
    clock = ManualClock()
    admission = door(clock, requests_per_second_per_tenant_max=10.0, requests_burst_per_tenant=2)
    reached = "requests_per_second_per_tenant_max"
    assert [let_in(admission, "acme", f"user-{n}") for n in range(3)] == ["", "", reached]
    assert let_in(admission, "other") == ""
    clock.advance(0.1)
    assert [let_in(admission, "acme", f"late-{n}") for n in range(2)] == ["", reached]


def test_a_caller_is_a_tenants_subject() -> None:
    admission = door(requests_per_second_per_caller_max=1.0, requests_burst_per_caller=1)
    reached = "requests_per_second_per_caller_max"
    assert [let_in(admission, "acme", "ada"), let_in(admission, "acme", "ada")] == ["", reached]
    assert let_in(admission, "acme", "bob") == ""
    assert let_in(admission, "other", "ada") == ""


def test_an_actor_is_counted_apart_and_only_messages_to_it_are() -> None:
    admission = door(requests_per_second_per_actor_max=1.0, requests_burst_per_actor=1)
    reached = "requests_per_second_per_actor_max"
    assert [let_in(admission, "acme", f"user-{n}", ORDERS) for n in range(2)] == ["", reached]
    assert let_in(admission, "acme", actor=replace(ORDERS, key="2")) == ""
    assert let_in(admission, "acme") == ""


def test_the_refusal_says_when_to_come_back_and_then_it_is_so() -> None:
    clock = ManualClock()
    admission = door(clock, requests_per_second_per_caller_max=4.0, requests_burst_per_caller=1)
    admission.enter("acme", "ada")
    with pytest.raises(RateLimited) as raised:
        admission.enter("acme", "ada")
    assert raised.value.details == {
        "limit": "requests_per_second_per_caller_max",
        "value": 4.0,
        "retry_after_ms": 250,
    }
    clock.advance(0.249)
    assert let_in(admission, "acme")
    clock.advance(0.001)
    assert let_in(admission, "acme") == ""


def test_a_refused_request_takes_nothing_from_anybody() -> None:
    clock = ManualClock()
    admission = door(
        clock,
        requests_per_second_per_tenant_max=1.0,
        requests_burst_per_tenant=10,
        requests_per_second_per_actor_max=1.0,
        requests_burst_per_actor=1,
    )
    assert let_in(admission, "acme", actor=ORDERS) == ""
    for _ in range(50):
        assert let_in(admission, "acme", actor=ORDERS)
    assert [let_in(admission, "acme") for _ in range(9)] == [""] * 9
    assert admission.refused == 50


def test_so_many_requests_of_a_tenant_are_under_way_at_a_time() -> None:
    admission = door(requests_in_flight_per_tenant_max=2)
    admission.enter("acme", "ada")
    admission.enter("acme", "bob")
    with pytest.raises(RateLimited) as raised:
        admission.enter("acme", "cy")
    assert raised.value.details == {
        "limit": "requests_in_flight_per_tenant_max",
        "value": 2,
        "retry_after_ms": 1_000,
    }
    admission.enter("other", "ada")
    admission.leave("acme")
    admission.enter("acme", "cy")
    for tenant in ("acme", "acme", "other"):
        admission.leave(tenant)
    assert not admission._in_flight


def test_a_tenant_may_have_quotas_of_its_own() -> None:
    admission = door(
        requests_burst_per_tenant=1,
        requests_per_second_per_tenant_max=1.0,
        quotas={"big": {"requests_burst_per_tenant": 3}, "small": {"requests_in_flight_per_tenant_max": 1}},
    )
    assert [let_in(admission, "acme") == "" for _ in range(2)] == [True, False]
    assert [let_in(admission, "big") == "" for _ in range(4)] == [True, True, True, False]
    admission.enter("small", "ada")
    assert let_in(admission, "small") == "requests_in_flight_per_tenant_max"


def test_many_names_take_no_more_memory_and_get_around_no_limit() -> None:
    admission = door(
        ManualClock(), requests_per_second_per_caller_max=1.0, requests_burst_per_caller=1
    )
    refused = sum(let_in(admission, "acme", f"user-{n}") != "" for n in range(10_100))
    assert refused == 99
    assert len(admission._of_callers) == 10_001
