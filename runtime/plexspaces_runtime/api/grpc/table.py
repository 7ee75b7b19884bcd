"""The one table of what the gRPC door offers: each RPC is an operation of the HTTP API; and which have none, why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC.

    Attributes:
        operation: of `ROUTES`.  Fields of the request that are called like its parameters become those, the others
            members of the body.
        text: the field of the request that is the body, or the query's arguments, as JSON text.
        waits: its deadline is how long a reply is waited for.
        reply: the field of the reply that gets the answer's whole body, as JSON text; without one, each member of the
            answer goes to the field of its name.
    """

    operation: str
    text: str = ""
    waits: bool = False
    reply: str = ""


RPCS: Final[Mapping[str, Mapping[str, Rpc]]] = {
    "plexspaces.v1.Actors": {
        "Ask": Rpc("post_actor_by_key", text="arguments_json", waits=True, reply="reply_json"),
        "Tell": Rpc("post_actor_by_key", text="arguments_json"),
        "Stop": Rpc("delete_actor_by_key"),
        "Restart": Rpc("restart_actor"),
        "Info": Rpc("get_info_by_key"),
        "List": Rpc("list_actors"),
    },
    "plexspaces.v1.Deployments": {
        "Deploy": Rpc("deploy"),
        "Check": Rpc("deploy"),
        "Undeploy": Rpc("undeploy"),
        "List": Rpc("list_deployments"),
        "DeployApplication": Rpc("deploy_application"),
        "ListApplications": Rpc("list_applications"),
        "GetApplication": Rpc("get_application"),
        "RestartApplication": Rpc("restart_application"),
        "UndeployApplication": Rpc("undeploy_application"),
        "Tree": Rpc("tree"),
    },
    "plexspaces.v1.Streams": {
        "Append": Rpc("append_event"),
        "Read": Rpc("read_stream"),
        "Follow": Rpc("read_stream"),
        "List": Rpc("list_streams"),
        "SetFlow": Rpc("change_stream"),
        "Clear": Rpc("clear_stream"),
        "ListSchedules": Rpc("list_schedules"),
        "AddSchedule": Rpc("add_schedule"),
        "RemoveSchedule": Rpc("remove_schedule"),
    },
    "plexspaces.v1.DeadLetters": {
        "List": Rpc("list_dead_letters"),
        "Retry": Rpc("retry_dead_letter"),
        "Drop": Rpc("drop_dead_letter"),
    },
    "plexspaces.v1.Workflows": {
        "Start": Rpc("start_workflow", text="arguments_json"),
        "Run": Rpc("start_workflow", text="arguments_json", waits=True, reply="result_json"),
        "Get": Rpc("get_workflow"),
        "List": Rpc("list_workflows"),
        "Cancel": Rpc("cancel_workflow"),
        "Forget": Rpc("forget_workflow"),
        "Signal": Rpc("signal_workflow", text="arguments_json"),
        "Query": Rpc("query_workflow", text="arguments_json", waits=True, reply="result_json"),
        "ListPromises": Rpc("list_promises"),
        "GetPromise": Rpc("get_promise"),
        "ResolvePromise": Rpc("resolve_promise", text="value_json"),
    },
}

_SAME: Final = "Actors.Ask and Actors.Tell send the same message"
_BYTES: Final = "bytes of any length: HTTP has ranges, conditions and caches for them, gRPC messages have none"
_GRANTS: Final = "for a person who decides what an actor may do, from the command line"
_SECRET: Final = "the fewer doors a secret goes through the better, and the command line uses this one"
_CHAT: Final = "a protocol of its own, which is HTTP"
_JOURNAL: Final = "for a person who looks into what happened: its JSON follows the journal's format, not a contract"

# The other operations, by why they are not offered here.  A test compares both with `ROUTES`.
NOT_HERE: Final[Mapping[str, str]] = {
    "get_actor": _SAME,
    "get_actor_by_key": _SAME,
    "list_blobs": _BYTES,
    "get_blob": _BYTES,
    "put_blob": _BYTES,
    "delete_blob": _BYTES,
    "show_grants": _GRANTS,
    "observe_type": _GRANTS,
    "forget_observed": _GRANTS,
    "list_journals": _JOURNAL,
    "show_journal": _JOURNAL,
    "show_journal_by_key": _JOURNAL,
    "verify_journal": _JOURNAL,
    "recover_journal": _JOURNAL,
    "list_secrets": _SECRET,
    "get_secret": _SECRET,
    "put_secret": _SECRET,
    "delete_secret": _SECRET,
    "rotate_secret_key": _SECRET,
    "list_links": "for a person who looks at the ways out of the node",
    "chat_completions": _CHAT,
    "chat_models": _CHAT,
    "chat_page": _CHAT,
    "healthz": "grpc.health.v1 answers this",
    "readyz": "grpc.health.v1 answers this",
    "metrics": "Prometheus reads HTTP",
    "openapi": "gRPC's reflection describes this door",
}
