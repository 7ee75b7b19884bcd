"""Sessions by user, and the record of what happened."""

from __future__ import annotations

import json

import pytest

from plexspaces import HostError, actor, handler
from plexspaces.testing import TestNode


@pytest.fixture
def node() -> TestNode:
    from claw.audit import AuditEventActor  # type: ignore[import-not-found]
    from claw.session import SessionManagerActor  # type: ignore[import-not-found]

    made = TestNode()
    made.spawn(SessionManagerActor, actor_type="session_manager")
    made.spawn(AuditEventActor, {"retention_days": 2}, actor_type="audit")
    return made


def _query(node: TestNode, **wanted: object) -> list[dict]:
    found: list[dict] = node.ask("audit", "query_events", wanted, roles=["auditor"])["events"]
    return found


def test_a_user_finds_their_session_again_by_channel(node: TestNode) -> None:
    made = node.ask("session_manager", "create_session", {"channel": "web", "user_id": "ada"}, subject="ada")
    again = node.ask("session_manager", "get_session", {"channel": "web", "user_id": "ada"}, subject="ada")
    assert again["session_id"] == made["session_id"]
    assert again["status"] == "ok"
    assert "error" in node.ask("session_manager", "get_session", {"channel": "mail", "user_id": "ada"}, subject="ada")


def test_a_stranger_sees_nothing_of_it(node: TestNode) -> None:
    made = node.ask("session_manager", "create_session", {"user_id": "ada"}, subject="ada")
    assert node.ask("session_manager", "list_sessions", subject="bob")["sessions"] == []
    seen = node.ask("session_manager", "get_session", {"session_id": made["session_id"]}, subject="bob")
    unknown = node.ask("session_manager", "get_session", {"session_id": "none"}, subject="bob")
    assert {**seen, "session_id": ""} == {**unknown, "session_id": ""}
    with pytest.raises(HostError):
        node.ask("session_manager", "end_session", {"session_id": made["session_id"]}, subject="bob")
    with pytest.raises(HostError):
        node.ask("session_manager", "register_session", {"session_id": made["session_id"]}, subject="bob")
    assert node.ask("session_manager", "list_sessions", subject="root", roles=["admin"])["count"] == 1


def test_ids_of_sessions_do_not_follow_from_one_another(node: TestNode) -> None:
    ids = {node.ask("session_manager", "create_session", subject="ada")["session_id"] for _ in range(20)}
    assert len({id_.rpartition("-")[2] for id_ in ids}) == 20
    assert all(len(id_.rpartition("-")[2]) == 16 for id_ in ids)


def test_sessions_survive_a_crash(node: TestNode) -> None:
    made = node.ask("session_manager", "create_session", subject="ada")
    node.actor("session_manager").crash()
    assert (
        node.ask("session_manager", "list_sessions", subject="ada")["sessions"][0]["session_id"] == made["session_id"]
    )


def test_what_happened_is_found_by_type_subject_session_and_time(node: TestNode) -> None:
    first = node.ask("session_manager", "create_session", subject="ada")["session_id"]
    node.advance(60)
    middle = node.now_ms
    node.ask("session_manager", "create_session", subject="bob")
    assert [event["subject"] for event in _query(node, event_type="session_created")] == ["bob", "ada"]
    assert [event["subject"] for event in _query(node, session_id=first)] == ["ada"]
    assert [event["subject"] for event in _query(node, since_ms=middle)] == ["bob"]
    assert [event["subject"] for event in _query(node, until_ms=middle)] == ["ada"]
    assert len(_query(node, actor="session_manager")) == 2
    assert _query(node, actor="somebody") == []


def _pushed(node: TestNode, id_: str, payload: dict) -> None:
    message = {"channel": "audit:events", "id": id_, "msg_type": "x", "payload": payload, "enqueued_ms": 7}
    node.ask("audit", "take_event", message, subject="")


def test_what_is_reported_together_is_on_record_one_by_one(node: TestNode) -> None:
    several = [{"event_type": each, "detail": {"name": each}} for each in ("first", "second")]
    _pushed(node, "m-1", {"actor": "tool_registry/s1", "session_id": "s1", "subject": "ada", "several": several})
    second, first = _query(node, session_id="s1", subject="ada", actor="tool_registry")
    assert [(each["event_type"], each["detail"]) for each in (first, second)] == [
        ("first", {"name": "first"}),
        ("second", {"name": "second"}),
    ]
    assert (first["timestamp"], second["previous"]) == (7, first["hash"])
    assert node.ask("audit", "verify", roles=["auditor"])["status"] == "ok"


@pytest.mark.parametrize(("between", "entries"), [(0, 1), (63, 1), (64, 2)])
def test_what_is_delivered_again_is_on_record_once(node: TestNode, between: int, entries: int) -> None:
    """What is delivered again was delivered last: so much further back nobody looks."""
    for id_ in ("m-1", *(f"other-{number}" for number in range(between)), "m-1"):
        _pushed(node, id_, {"event_type": "first" if id_ == "m-1" else "other"})
    assert len(_query(node, event_type="first")) == entries


def test_nobody_puts_something_on_record_in_the_channels_name(node: TestNode) -> None:
    before = node.ask("audit", "get_stats")["event_count"]
    forged = {"event_type": "approval", "actor": "approval/s1", "subject": "grace"}
    with pytest.raises(HostError) as refused:
        node.ask("audit", "take_event", {"channel": "x", "id": "1", "msg_type": "x", "payload": forged}, subject="bob")
    assert refused.value.details["reason"] == "not-the-channel"
    assert _query(node, event_type="approval") == []
    (event,) = _query(node, event_type="access_refused")
    assert event["subject"] == "bob"
    assert node.ask("audit", "get_stats")["event_count"] == before + 1


def test_only_auditors_read_it(node: TestNode) -> None:
    for op in ("query_events", "verify", "export"):
        with pytest.raises(HostError):
            node.ask("audit", op, subject="ada")


def test_nobody_waits_for_an_audit_that_is_dead_and_nothing_is_lost(node: TestNode) -> None:
    node.actor("audit").stop()
    for _ in range(5):
        node.ask("session_manager", "create_session", subject="ada")
    assert len(node.channel("audit:events").waiting) == 5
    node.actor("audit").restart()
    assert node.ask("audit", "get_stats")["event_count"] == 5
    assert node.ask("audit", "verify", roles=["admin"])["status"] == "ok"


def _tampered(node: TestNode, seq: int, change: dict | None) -> dict:
    from claw.audit import AuditEventActor

    @actor(facets=["durability"])
    class Tampering(AuditEventActor):  # type: ignore[misc]
        @handler("tamper")
        def tamper(self, seq: int, change: dict | None) -> None:
            from plexspaces import host

            key = f"entry/{seq:012}"
            if change is None:
                host.kv_delete(key)
            else:
                host.kv_put(key, {**host.kv_get(key), **change})

    other = TestNode()
    audit = other.spawn(Tampering, {}, actor_type="audit")
    for number in range(6):
        audit.tell("log_event", event_type="e", detail=f"n{number}")
    assert other.ask("audit", "verify", roles=["admin"])["status"] == "ok"
    audit.ask("tamper", seq=seq, change=change)
    broken: dict = other.ask("audit", "verify", roles=["admin"])
    return broken


@pytest.mark.parametrize("change", [{"detail": "other"}, {"seq": 9}, {"hash": "0" * 64}, None])
@pytest.mark.parametrize("seq", [1, 4, 6])
def test_a_change_of_one_entry_is_found(node: TestNode, seq: int, change: dict | None) -> None:
    broken = _tampered(node, seq, change)
    assert (broken["status"], broken["seq"]) == ("broken", seq)


def test_it_is_exported_as_json_lines(node: TestNode) -> None:
    for _ in range(3):
        node.ask("session_manager", "create_session", subject="ada")
    page = node.ask("audit", "export", {"limit": 2}, roles=["auditor"])
    rest = node.ask("audit", "export", {"cursor": page["cursor"]}, roles=["auditor"])
    lines = [json.loads(line) for line in (page["lines"] + rest["lines"]).splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3]
    assert rest["cursor"] == 0


def test_old_entries_go_and_the_chain_still_holds(node: TestNode) -> None:
    for _ in range(30):
        node.tell("audit", "log_event", {"event_type": "old"})
    node.advance(3 * 86_400)
    for _ in range(70):
        node.tell("audit", "log_event", {"event_type": "new"})
    stats = node.ask("audit", "get_stats")
    assert (stats["oldest"], stats["event_count"]) == (31, 100)
    assert node.ask("audit", "verify", roles=["admin"]) == {"status": "ok", "entries": 70, "head": stats["head"]}
