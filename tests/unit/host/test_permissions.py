"""The gate and capabilities: what passes without a look, what is refused and said of it, and what is kept of uses."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from plexspaces_runtime.actors.capabilities import Grants, Layer, need_of
from plexspaces_runtime.actors.guest import Err, Ok
from plexspaces_runtime.errors import InvalidArgument, LimitExceeded, PermissionDenied
from plexspaces_runtime.events import PermissionRefused
from plexspaces_runtime.host.permissions import NAMES_PER_TYPE_MAX, WATCHED_TYPES_PER_TENANT_MAX, Uses
from plexspaces_runtime.scope import Scope
from tests.unit.scripted import SCOPE, Bench, call


def grants(*entries: str) -> Grants:
    return Grants(frozenset({Layer.of("of child 'a' in application 'x'", entries)}))


def join(group: str) -> Any:
    return call("process-groups", "join", group)


def refusals(bench: Bench) -> list[tuple[str, str, str]]:
    return [(each.function, each.name, each.line) for each in bench.seen if isinstance(each, PermissionRefused)]


async def test_a_refusal_is_an_answer_and_an_event() -> None:
    bench = Bench()
    await bench.puppet("a", capabilities=grants("process-groups:svc:*"))
    assert isinstance(await bench.do("a", join("svc:1")), Ok)
    refused = await bench.do("a", join("other"))
    line = "capabilities = [..., \"process-groups:other\"] of child 'a' in application 'x'"
    assert isinstance(refused, Err)
    assert refused.value[0] == "permission-denied"
    assert line in refused.value[1]
    assert orjson.loads(refused.value[2])["capability"] == "process-groups:other"
    assert refusals(bench) == [("process-groups.join", "other", line)]
    assert bench.host.groups.count == 1


async def test_a_name_that_no_entry_can_have_is_not_put_into_one() -> None:
    bench = Bench()
    await bench.puppet("a", capabilities=grants("messaging"))
    for name in ("line\nbreak", "a*", "long" * 100):
        await bench.do("a", join(name))
    assert {line for _, _, line in refusals(bench)} == {
        "capabilities = [..., \"process-groups\"] of child 'a' in application 'x'"
    }
    assert [len(name) for _, name, _ in refusals(bench)] == [10, 2, 200]


async def test_whatever_is_about_the_actor_alone_is_never_refused() -> None:
    bench = Bench()
    await bench.puppet("a", capabilities=grants())
    assert await bench.do("a", call("lifecycle", "self-id")) == "a"
    assert await bench.do("a", call("lifecycle", "trap-exit", True)) is False
    assert await bench.do("a", call("timers", "cancel", "timer-1")) is False
    assert isinstance(await bench.do("a", call("clock", "now-ns")), int)
    assert refusals(bench) == []


async def test_each_element_of_a_list_of_asks_is_refused() -> None:
    bench = Bench()
    await bench.puppet("a", capabilities=grants())
    answers = await bench.do("a", call("messaging", "ask-many", [("a", "op", "{}")] * 3, 0))
    assert [each.value[0] for each in answers] == ["permission-denied"] * 3
    assert len(refusals(bench)) == 1


async def test_too_many_names_at_once_are_not_looked_at() -> None:
    bench = Bench()
    await bench.puppet("a", capabilities=grants("http:l*"))
    need = need_of("http", "register-credential")
    assert need is not None

    def check(*links: str) -> None:
        arguments = ["", "secret", [*links]]
        bench.host.permissions.check(bench.actors["a"], "http", "register-credential", need, arguments)

    check(*["l"] * 256)
    with pytest.raises(InvalidArgument, match="257 names at once"):
        check(*["l"] * 257)
    with pytest.raises(PermissionDenied, match="http:m"):
        check("l", "m")


async def test_other_modules_ask_for_more_than_the_gate_does() -> None:
    bench = Bench()
    await bench.puppet("a", capabilities=grants("http:llm-*", "messaging"))
    actor = bench.actors["a"]
    bench.host.permit(actor, "http", "llm-api")
    bench.host.permit(actor, "http")
    bench.host.permit(actor, "messaging", "whatever")
    for capability, name in (("http", "search"), ("spawn", None)):
        with pytest.raises(PermissionDenied, match="application 'x'"):
            bench.host.permit(actor, capability, name)


# -- what is kept --------------------------------------------------------------------------------------------


async def test_refusals_are_counted_by_type_until_they_are_forgotten() -> None:
    bench = Bench()
    await bench.puppet("a/1", capabilities=grants("messaging"))
    await bench.puppet("a/2", capabilities=grants("messaging"))
    for name in ("a/1", "a/1", "a/2"):
        await bench.do(name, join("g"))
    permissions = bench.host.permissions
    assert permissions.refusals(SCOPE, "a") == {"process-groups:g": 3}
    # A guest does not decide how much is kept of it.
    for number in range(100):
        await bench.do("a/1", join(f"g{number}"))
    assert len(permissions.refusals(SCOPE, "a")) == 50
    permissions.forget_refusals(SCOPE, "a")
    assert permissions.refusals(SCOPE, "a") == {}


async def test_what_a_watched_type_uses_is_kept_and_what_it_is_refused_is_not() -> None:
    bench = Bench()
    await bench.puppet("a", capabilities=grants("process-groups:g*", "registry"))
    await bench.puppet("b")
    permissions = bench.host.permissions
    await bench.do("a", join("g0"))
    assert permissions.uses(SCOPE, "a") is None
    permissions.watch(SCOPE, "a")
    await bench.do("a", join("g1"), join("g1"), join("g2"), join("h"))
    await bench.do("a", call("registry", "find", ("", "", "", 0)))
    await bench.do("b", join("g3"))
    uses = permissions.uses(SCOPE, "a")
    assert uses is not None
    assert uses.calls == {"process-groups": 3, "registry": 1}
    assert uses.names["process-groups"] == {"g1", "g2"}
    # To begin again changes nothing, to end forgets.
    permissions.watch(SCOPE, "a")
    assert permissions.uses(SCOPE, "a") is uses
    permissions.unwatch(SCOPE, "a")
    await bench.do("a", join("g4"))
    assert permissions.uses(SCOPE, "a") is None
    assert "registry" in bench.actors["a"].spec.free


async def test_so_many_types_of_a_tenant_can_be_watched() -> None:
    permissions = Bench().host.permissions
    for number in range(WATCHED_TYPES_PER_TENANT_MAX):
        permissions.watch(SCOPE, f"t{number}")
    permissions.watch(SCOPE, "t0")
    permissions.watch(Scope("other", "default"), "t0")
    with pytest.raises(LimitExceeded, match="100 actor types are observed"):
        permissions.watch(SCOPE, "one-more")
    permissions.unwatch(SCOPE, "t0")
    permissions.watch(SCOPE, "one-more")


def test_so_many_names_are_kept_and_the_rest_is_said() -> None:
    uses = Uses()
    for number in range(NAMES_PER_TYPE_MAX):
        uses.add("locks", [f"l{number}"])
    assert not uses.more
    uses.add("locks", ["l0"])
    assert not uses.more
    uses.add("channels", ["c"])
    uses.add("http", ["a" * 257])
    assert uses.more == {"channels", "http"}
    odd = Uses()
    odd.add("process-groups", ["line\nbreak"])
    assert odd.more == {"process-groups"}
    assert sum(map(len, uses.names.values())) == NAMES_PER_TYPE_MAX
    assert uses.calls["channels"] == 1


async def test_names_are_listed_by_those_only_who_may_have_all_that_are_listed() -> None:
    bench = Bench()
    await bench.puppet("a", capabilities=grants("blobs:reports/*", "blobs:public/**"))
    need = need_of("blobs", "list-blobs")
    assert need is not None

    def list_blobs(prefix: str) -> None:
        bench.host.permissions.check(bench.actors["a"], "blobs", "list-blobs", need, [prefix, "", 0])

    bench.host.permissions.watch(SCOPE, "a")
    list_blobs("public/a")
    for prefix in ("", "reports/", "reports/may", "public"):
        with pytest.raises(PermissionDenied, match=rf"'blobs:{prefix}\*\*'"):
            list_blobs(prefix)
    uses = bench.host.permissions.uses(SCOPE, "a")
    assert uses is not None
    assert uses.names == {"blobs": {"public/a**"}}
