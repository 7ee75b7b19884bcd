"""The one table of what the edge offers; the dispatcher and /openapi.json both read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the path, the query or the headers."""

    name: str
    where: str
    description: str
    schema: Mapping[str, Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Success:
    """What a good answer is.

    Attributes:
        schema: of its JSON body, or None where there is none.
    """

    status: int
    description: str
    schema: Mapping[str, Any] | None = None
    media_type: str = _JSON


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    Attributes:
        path: a template; `{name}` is one segment.
        operation: its OpenAPI id; outside /api/v1/actors/, also the name of the method of `Api` that answers it.
        errors: codes of `FAULTS` that it may answer with, beside those of every route.
        public: needs no token.
        body: schema of the request's body, by media type.
        rest: the last parameter of the path is all that is left of the address, `/` included.
    """

    method: str
    path: str
    operation: str
    tag: str
    summary: str
    description: str
    success: tuple[Success, ...]
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[str, ...] = ()
    public: bool = False
    body: Mapping[str, Any] | None = None
    rest: bool = False


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_NAME_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": 64,
    "pattern": "^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$",
}
_TENANT = Parameter("tenant", "path", "The token's tenant.", _NAME_SCHEMA, True)
_NAMESPACE = Parameter("namespace", "path", "A namespace of the tenant.", _NAME_SCHEMA, True)
_TYPE = Parameter("type", "path", "A deployed actor type.", _NAME_SCHEMA, True)
_KEY = Parameter(
    "key",
    "path",
    "Which actor of the type; percent-encoded. Without it, the one whose key is `default`.",
    {"type": "string", "minLength": 1, "maxLength": 256},
    True,
)
_SECRET = Parameter("name", "path", "A secret of the tenant.", _NAME_SCHEMA, True)
_APPLICATION = Parameter("name", "path", "An application of the tenant.", _NAME_SCHEMA, True)
_SECONDS = {"type": "number", "exclusiveMinimum": 0}
_WAIT = Parameter("wait", "query", "Ask, and wait for the reply for so many seconds. Without it: tell.", _SECONDS)
_PREFER = Parameter(
    "Prefer",
    "header",
    "`wait=SECONDS` (RFC 7240): ask, and wait for the reply. Everything else is ignored.",
    {"type": "string", "examples": ["wait=10"]},
)
_IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "A repetition with the same key gets the first one's answer, and nothing is done twice.",
    {"type": "string", "minLength": 1, "maxLength": 257},
)
_TRACEPARENT = Parameter("traceparent", "header", "W3C trace context; travels with the message.", {"type": "string"})
_DELIVERY_ERRORS = (
    "actor-not-found",
    "mailbox-full",
    "deadline-exceeded",
    "handler-refused",
    "handler-crashed",
    "actor-exited",
    "deadlock",
    "limit-exceeded",
    "cancelled",
)
_MESSAGE_BODY = {
    _JSON: {
        "type": "object",
        "description": "The operation as `op` (or `action`, `message_type`, `msg_type`); the rest are its arguments.",
        "properties": {"op": {"type": "string", "minLength": 1, "maxLength": 128}},
        "additionalProperties": True,
        "examples": [{"op": "increment", "amount": 5}],
    }
}
_REPLY = Success(200, "The actor's reply.", {"description": "Whatever the handler returned."})


def _actor_routes(path: str, suffix: str, key: tuple[Parameter, ...]) -> tuple[Route, ...]:
    where = (_TENANT, _NAMESPACE, _TYPE, *key)
    return (
        Route(
            "POST",
            path,
            "post_actor" + suffix,
            "actors",
            "Tell or ask an actor",
            "Sends a message. With a wait it is an ask: the reply comes back. Without one it is a tell: the message's "
            "id comes back as soon as it is in the mailbox.",
            (Success(202, "Told: it is in the mailbox.", _ref("Told")), _REPLY),
            (*where, _WAIT, _PREFER, _IDEMPOTENCY_KEY, _TRACEPARENT),
            (
                *_DELIVERY_ERRORS,
                "payload-too-large",
                "unsupported-media-type",
                "idempotency-key-reused",
                "reply-not-kept",
            ),
            body=_MESSAGE_BODY,
        ),
        Route(
            "GET",
            path,
            "get_actor" + suffix,
            "actors",
            "Ask an actor",
            "The query's parameters are the arguments: a value that is JSON counts as that JSON (a string in quotes as "
            "a string), any other is a string; a repeated name is a list. `op` names the operation.",
            (_REPLY,),
            (
                *where,
                Parameter("op", "query", "The operation.", {"type": "string", "default": "get"}),
                _PREFER,
                _TRACEPARENT,
            ),
            _DELIVERY_ERRORS,
        ),
        Route(
            "DELETE",
            path,
            "delete_actor" + suffix,
            "actors",
            "Stop an actor",
            "It finishes the message it is handling; with `kill=true` it does not. It stays down until it is restarted "
            "or deployed.",
            (Success(204, "It is gone."),),
            (*where, Parameter("kill", "query", "End it at once.", {"type": "boolean", "default": False})),
            ("actor-not-found",),
        ),
        Route(
            "GET",
            path + "/info",
            "get_info" + suffix,
            "actors",
            "Look at an actor",
            "Its state, and the JSON Schemas of its handlers.",
            (Success(200, "The actor.", _ref("ActorDetails")),),
            where,
            ("actor-not-found",),
        ),
    )


_IN_NAMESPACE = Parameter("namespace", "query", "Which namespace.", {**_NAME_SCHEMA, "default": "default"})
_STREAM_PATH = Parameter(
    "path", "path", "The stream's path without its first `/`.", {"type": "string", "examples": ["sessions/abc"]}, True
)
_BLOB_NAME = Parameter("name", "path", "The blob's name.", {"type": "string", "examples": ["reports/may.pdf"]}, True)
_PAGE_LIMIT = Parameter(
    "limit", "query", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
)
_DEAD_LETTER = Parameter("id", "path", "The dead letter.", {"type": "string"}, True)

_PROMISE = Parameter("id", "path", "The promise.", {"type": "string"}, True)
_LIST_LIMIT = Parameter(
    "limit", "query", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
)
_AFTER = Parameter("after", "query", "The `next` of the page before.", {"type": "string"})
_ARGUMENTS_BODY = {
    _JSON: {
        "type": "object",
        "description": "The arguments; nothing for none.",
        "additionalProperties": True,
        "examples": [{"city": "Lisbon"}],
    }
}

_WORKFLOW: Final = "/api/v1/workflows/{type}/{key}"
_STREAM: Final = "/api/v1/streams/{path}"
_BLOB: Final = "/api/v1/blobs/{namespace}/{name}"
_ACTOR: Final = "/api/v1/actors/{tenant}/{namespace}/{type}"
_JOURNAL: Final = "/api/v1/journals/{tenant}/{namespace}/{type}"


def _journal_routes(path: str, suffix: str, key: tuple[Parameter, ...]) -> tuple[Route, ...]:
    return (
        Route(
            "GET",
            path,
            "show_journal" + suffix,
            "journals",
            "Read a journal",
            "What happened to a durable actor, as far back as its journal is kept: messages, what each asked of the "
            "host and got, how it ended, and checkpoints; oldest first.",
            (Success(200, "A page of the history.", _ref("JournalPage")),),
            (
                _TENANT,
                _NAMESPACE,
                _TYPE,
                *key,
                Parameter("after", "query", "The `next` of the page before.", {"type": "integer", "default": 0}),
                _PAGE_LIMIT,
            ),
            ("not-found",),
        ),
    )


ROUTES: Final[tuple[Route, ...]] = (
    *_actor_routes(_ACTOR, "", ()),
    *_actor_routes(_ACTOR + "/{key}", "_by_key", (_KEY,)),
    Route(
        "POST",
        _ACTOR + "/{key}/restart",
        "restart_actor",
        "actors",
        "Restart an actor",
        "Stops it, if it lives, and starts it again. The key of an actor that has none is `default`.",
        (Success(204, "It is up again."),),
        (_TENANT, _NAMESPACE, _TYPE, _KEY),
        ("actor-not-found", "not-found", "conflict", "already-exists", "handler-crashed", "limit-exceeded"),
    ),
    Route(
        "GET",
        "/api/v1/actors",
        "list_actors",
        "actors",
        "List actors",
        "The tenant's living actors, by namespace, type and key.",
        (Success(200, "A page of actors.", _ref("Actors")),),
        (
            Parameter("namespace", "query", "Only this one.", _NAME_SCHEMA),
            Parameter("limit", "query", "The page's size.", {"type": "integer", "minimum": 1, "default": 1000}),
            Parameter("after", "query", "The `next` of the page before.", {"type": "string"}),
        ),
    ),
    Route(
        "POST",
        "/api/v1/deploy",
        "deploy",
        "deployments",
        "Deploy an actor type",
        "Uploads a component and makes it the code of an actor type. A new version replaces the old one without losing "
        "a message. With `check` true nothing is deployed: the component is given what the durable actors of the type "
        "have recorded, on throw-away instances, and the answer says who could not be made again as he was.",
        (
            Success(201, "Deployed.", _ref("Deployment")),
            Success(200, "Checked, and not deployed.", _ref("CheckReport")),
        ),
        parameters=(_IDEMPOTENCY_KEY,),
        errors=(
            "payload-too-large",
            "unsupported-media-type",
            "invalid-component",
            "conflict",
            "limit-exceeded",
            "handler-crashed",
            "idempotency-key-reused",
            "reply-not-kept",
            "rate-limited",
        ),
        body={
            "multipart/form-data": {
                "type": "object",
                "required": ["namespace", "actor_type", "wasm"],
                "properties": {
                    "namespace": _NAME_SCHEMA,
                    "actor_type": _NAME_SCHEMA,
                    "wasm": {"type": "string", "contentMediaType": "application/wasm"},
                    "config": {"type": "string", "contentMediaType": _JSON, "description": "A JSON object."},
                    "check": {"type": "string", "enum": ["true", "false"], "description": "Only try it."},
                },
            }
        },
    ),
    Route(
        "GET",
        "/api/v1/deployments",
        "list_deployments",
        "deployments",
        "List deployed types",
        "What the tenant has deployed.",
        (Success(200, "The deployments.", _ref("Deployments")),),
        (Parameter("namespace", "query", "Only this one.", _NAME_SCHEMA),),
    ),
    Route(
        "DELETE",
        "/api/v1/deployments/{namespace}/{type}",
        "undeploy",
        "deployments",
        "Undeploy an actor type",
        "Stops the type's actors and forgets it.",
        (Success(204, "It is gone."),),
        (_NAMESPACE, _TYPE),
        ("not-found",),
    ),
    Route(
        "GET",
        "/api/v1/grants/{namespace}/{type}",
        "show_grants",
        "deployments",
        "Look at an actor type's capabilities",
        "What it is granted, what it was refused since it was deployed last, and, of one that is observed, what it has "
        "used and the smallest list of capabilities that would allow that.",
        (Success(200, "The grants.", _ref("Grants")),),
        (_NAMESPACE, _TYPE),
        ("not-found",),
    ),
    Route(
        "PUT",
        "/api/v1/grants/{namespace}/{type}/observe",
        "observe_type",
        "deployments",
        "Observe what an actor type uses",
        "From now on the node keeps, in memory, which capabilities its actors use and for what names; its future "
        "versions' too. It need not be deployed yet.",
        (Success(204, "It is observed."),),
        (_NAMESPACE, _TYPE),
        ("limit-exceeded",),
    ),
    Route(
        "DELETE",
        "/api/v1/grants/{namespace}/{type}/observe",
        "forget_observed",
        "deployments",
        "End the observation",
        "What was kept is forgotten.",
        (Success(204, "It is not observed."),),
        (_NAMESPACE, _TYPE),
    ),
    Route(
        "POST",
        "/api/v1/applications",
        "deploy_application",
        "applications",
        "Deploy an application",
        "Uploads app-config.toml and the components it names, and starts the tree. An application of that name goes "
        "over to the new configuration: only what differs changes. `path` and `source` of a component are for the "
        "command line; the node reads neither.",
        (Success(201, "Deployed; `changes` says what was done.", _ref("Application")),),
        parameters=(_IDEMPOTENCY_KEY,),
        errors=(
            "payload-too-large",
            "unsupported-media-type",
            "invalid-component",
            "not-found",
            "already-exists",
            "conflict",
            "limit-exceeded",
            "handler-crashed",
            "idempotency-key-reused",
            "reply-not-kept",
            "rate-limited",
        ),
        body={
            "multipart/form-data": {
                "type": "object",
                "required": ["config"],
                "properties": {
                    "config": {
                        "type": "string",
                        "contentMediaType": "application/toml",
                        "description": "app-config.toml.",
                    },
                },
                "additionalProperties": {
                    "type": "string",
                    "contentMediaType": "application/wasm",
                    "description": "One for each component, called like it.",
                },
            }
        },
    ),
    Route(
        "GET",
        "/api/v1/applications",
        "list_applications",
        "applications",
        "List applications",
        "The tenant's applications, and how they fare.",
        (Success(200, "The applications.", _ref("Applications")),),
        (Parameter("namespace", "query", "Only this one.", _NAME_SCHEMA),),
    ),
    Route(
        "GET",
        "/api/v1/applications/{name}",
        "get_application",
        "applications",
        "Look at an application",
        "How it fares, and what its last deployment changed.",
        (Success(200, "The application.", _ref("Application")),),
        (_APPLICATION,),
        ("not-found",),
    ),
    Route(
        "DELETE",
        "/api/v1/applications/{name}",
        "undeploy_application",
        "applications",
        "Undeploy an application",
        "Stops its tree, in reverse order of starting, and forgets it.",
        (Success(204, "It is gone."),),
        (_APPLICATION,),
        ("not-found",),
    ),
    Route(
        "POST",
        "/api/v1/applications/{name}/restart",
        "restart_application",
        "applications",
        "Restart an application",
        "Stops its tree and starts it again.",
        (Success(200, "It is up again.", _ref("Application")),),
        (_APPLICATION,),
        ("not-found", "conflict", "handler-crashed", "limit-exceeded"),
    ),
    Route(
        "GET",
        "/api/v1/tree",
        "tree",
        "applications",
        "Look at the supervision trees",
        "One root for each application and for each type that is deployed on its own.",
        (Success(200, "The trees.", _ref("Tree")),),
        (Parameter("namespace", "query", "Only this one.", _NAME_SCHEMA),),
    ),
    Route(
        "GET",
        "/api/v1/streams",
        "list_streams",
        "streams",
        "List event streams",
        "The streams of a namespace, by path.",
        (Success(200, "A page of streams.", _ref("Streams")),),
        (
            _IN_NAMESPACE,
            Parameter("prefix", "query", "Only those whose path begins so.", {"type": "string"}),
            Parameter("after", "query", "The `next` of the page before.", {"type": "string"}),
            Parameter("limit", "query", "The page's size.", {"type": "integer", "minimum": 1, "default": 1000}),
        ),
    ),
    Route(
        "GET",
        _STREAM,
        "read_stream",
        "streams",
        "Read or follow an event stream",
        "Events after an offset, oldest first. With `live=true` they come as Server-Sent Events, those of the future "
        "too: the id of each is its offset, its data the same JSON as here. The path may hold `/`.",
        (Success(200, "The events.", _ref("StreamPage")),),
        (
            _STREAM_PATH,
            _IN_NAMESPACE,
            Parameter("after", "query", "Only those behind this offset.", {"type": "integer", "default": 0}),
            Parameter(
                "limit", "query", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
            ),
            Parameter("live", "query", "Go on with what comes.", {"type": "boolean", "default": False}),
            Parameter("Last-Event-ID", "header", "As `after`, and before it.", {"type": "string"}),
        ),
        ("not-found", "limit-exceeded"),
        rest=True,
    ),
    Route(
        "POST",
        _STREAM,
        "append_event",
        "streams",
        "Append an event",
        "What is no event becomes one of type `error`, whose payload says what came; the answer says so in `reason`. "
        "The path may hold `/`.",
        (
            Success(201, "Appended, and on disk.", _ref("Appended")),
            Success(200, "Appended before with the same Idempotency-Key.", _ref("Appended")),
        ),
        (_STREAM_PATH, _IN_NAMESPACE, _IDEMPOTENCY_KEY),
        ("unsupported-media-type", "rate-limited", "limit-exceeded"),
        body={
            _JSON: {
                "type": "object",
                "required": ["event_type"],
                "properties": {
                    "event_type": {"type": "string", "minLength": 1, "maxLength": 128},
                    "payload": {"description": "Any JSON."},
                },
                "additionalProperties": False,
                "examples": [{"event_type": "note", "payload": {"text": "hello"}}],
            }
        },
        rest=True,
    ),
    Route(
        "PATCH",
        _STREAM,
        "change_stream",
        "streams",
        "Pause or resume an event stream",
        "A stream that an operator has paused takes no appends until one resumes it. The path may hold `/`.",
        (Success(200, "The stream.", _ref("Stream")),),
        (_STREAM_PATH, _IN_NAMESPACE),
        ("not-found", "unsupported-media-type", "payload-too-large"),
        body={
            _JSON: {
                "type": "object",
                "required": ["flow"],
                "properties": {"flow": {"enum": ["held", "flowing"]}},
                "additionalProperties": False,
            }
        },
        rest=True,
    ),
    Route(
        "DELETE",
        _STREAM,
        "clear_stream",
        "streams",
        "Clear an event stream",
        "Drops its events. Its offsets go on. The path may hold `/`.",
        (Success(204, "Its events are gone."),),
        (_STREAM_PATH, _IN_NAMESPACE),
        ("not-found",),
        rest=True,
    ),
    Route(
        "GET",
        "/api/v1/schedules",
        "list_schedules",
        "streams",
        "List scheduled appends",
        "Those of a namespace.",
        (Success(200, "The scheduled appends.", _ref("Schedules")),),
        (_IN_NAMESPACE,),
    ),
    Route(
        "POST",
        "/api/v1/schedules",
        "add_schedule",
        "streams",
        "Schedule an append",
        "Once (`at_ms`), every so many seconds (`every_s`) or by a cron expression in UTC (`cron`).",
        (Success(201, "Scheduled.", _ref("Schedule")),),
        (_IN_NAMESPACE,),
        ("unsupported-media-type", "payload-too-large", "limit-exceeded"),
        body={
            _JSON: {
                "type": "object",
                "required": ["path", "event_type"],
                "properties": {
                    "path": {"type": "string", "examples": ["/sessions/abc"]},
                    "event_type": {"type": "string", "minLength": 1, "maxLength": 128},
                    "payload": {"description": "Any JSON."},
                    "at_ms": {"type": "integer", "description": "Unix milliseconds."},
                    "every_s": {"type": "integer", "minimum": 1},
                    "cron": {"type": "string", "examples": ["*/15 8-18 * * mon-fri"]},
                },
                "additionalProperties": False,
            }
        },
    ),
    Route(
        "DELETE",
        "/api/v1/schedules/{id}",
        "remove_schedule",
        "streams",
        "End a scheduled append",
        "What it has appended stays.",
        (Success(204, "It is gone."),),
        (Parameter("id", "path", "The schedule.", {"type": "string"}, True), _IN_NAMESPACE),
        ("not-found",),
    ),
    Route(
        "GET",
        "/api/v1/blobs/{namespace}",
        "list_blobs",
        "blobs",
        "List blobs",
        "The blobs of a namespace, by name.",
        (Success(200, "A page of blobs.", _ref("Blobs")),),
        (
            _NAMESPACE,
            Parameter("prefix", "query", "Only those whose name begins so.", {"type": "string"}),
            Parameter("cursor", "query", "The `next` of the page before.", {"type": "string"}),
            Parameter("limit", "query", "The page's size.", {"type": "integer", "minimum": 1, "default": 1000}),
        ),
    ),
    Route(
        "GET",
        _BLOB,
        "get_blob",
        "blobs",
        "Get a blob",
        "Its bytes, or a range of them. Its ETag is their SHA-256. The name may hold `/`.",
        (
            Success(200, "All of it.", {"type": "string"}, "application/octet-stream"),
            Success(206, "The range.", {"type": "string"}, "application/octet-stream"),
            Success(304, "It is what `If-None-Match` names."),
        ),
        (
            _NAMESPACE,
            _BLOB_NAME,
            Parameter("Range", "header", "One range of bytes.", {"type": "string", "examples": ["bytes=0-1023"]}),
            Parameter("If-Range", "header", "The range only if this is its ETag.", {"type": "string"}),
            Parameter("If-None-Match", "header", "Only if none of these is its ETag.", {"type": "string"}),
        ),
        ("not-found", "range-not-satisfiable"),
        rest=True,
    ),
    Route(
        "PUT",
        _BLOB,
        "put_blob",
        "blobs",
        "Put a blob",
        "Under its name there is the old one until all of the new one is on disk. The name may hold `/`.",
        (
            Success(201, "There was none of this name.", _ref("Blob")),
            Success(200, "It took another's place.", _ref("Blob")),
        ),
        (
            _NAMESPACE,
            _BLOB_NAME,
            Parameter("If-None-Match", "header", "`*`: only if there is none of this name.", {"const": "*"}),
        ),
        ("already-exists", "payload-too-large", "limit-exceeded", "rate-limited"),
        body={"application/octet-stream": {"type": "string", "description": "Any bytes, of any Content-Type."}},
        rest=True,
    ),
    Route(
        "DELETE",
        _BLOB,
        "delete_blob",
        "blobs",
        "Delete a blob",
        "Whoever is reading it reads it to its end.",
        (Success(204, "It is gone."),),
        (_NAMESPACE, _BLOB_NAME),
        ("not-found",),
        rest=True,
    ),
    Route(
        "GET",
        "/api/v1/dead-letters",
        "list_dead_letters",
        "dead letters",
        "List dead letters",
        "Messages that are not delivered any more, because nobody could handle them: those of channels, then those of "
        "durable actors, each oldest first. A page ends early where its payloads are large.",
        (Success(200, "A page of dead letters.", _ref("DeadLetters")),),
        (
            _IN_NAMESPACE,
            Parameter(
                "kind", "query", "Only those of this kind of source.", {"type": "string", "enum": ["channel", "actor"]}
            ),
            Parameter(
                "source", "query", "Only those of this source: a channel's name, or an actor's.", {"type": "string"}
            ),
            Parameter("after", "query", "The `next` of the page before.", {"type": "string"}),
            Parameter(
                "limit", "query", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
            ),
        ),
    ),
    Route(
        "POST",
        "/api/v1/dead-letters/{id}/retry",
        "retry_dead_letter",
        "dead letters",
        "Retry a dead letter",
        "It is delivered again, as if for the first time: in a channel in its old place, to an actor after what waits.",
        (Success(204, "It waits to be delivered."),),
        (_DEAD_LETTER, _IN_NAMESPACE),
        ("not-found", "limit-exceeded", "mailbox-full"),
    ),
    Route(
        "DELETE",
        "/api/v1/dead-letters/{id}",
        "drop_dead_letter",
        "dead letters",
        "Drop a dead letter",
        "It is deleted, payload and all.",
        (Success(204, "It is gone."),),
        (_DEAD_LETTER, _IN_NAMESPACE),
        ("not-found",),
    ),
    Route(
        "GET",
        "/api/v1/journals",
        "list_journals",
        "journals",
        "List journals",
        "The tenant's durable actors, by namespace and name.",
        (Success(200, "A page of journals.", _ref("Journals")),),
        (
            Parameter("namespace", "query", "Only this one.", _NAME_SCHEMA),
            Parameter("after", "query", "The `next` of the page before.", {"type": "string"}),
            _PAGE_LIMIT,
        ),
    ),
    *_journal_routes(_JOURNAL, "", ()),
    *_journal_routes(_JOURNAL + "/{key}", "_by_key", (_KEY,)),
    Route(
        "GET",
        _JOURNAL + "/{key}/verify",
        "verify_journal",
        "journals",
        "Verify a journal",
        "Walks along the chain of hashes and names the first entry that is not what was written. The key of an actor "
        "that has none is `default`.",
        (Success(200, "What was found.", _ref("Verdict")),),
        (_TENANT, _NAMESPACE, _TYPE, _KEY),
        ("not-found",),
    ),
    Route(
        "POST",
        _JOURNAL + "/{key}/recover",
        "recover_journal",
        "journals",
        "Let an actor go back to its last checkpoint",
        "The way out for an actor that cannot be made again as it was. It is stopped, if it lives, and started from "
        "its last checkpoint with the code that its type has now. Messages that were recorded after that are kept as "
        "dead letters, or are delivered again where nobody waits for a reply; entries that cannot be read are set "
        "aside. The answer says what was done. The key of an actor that has none is `default`.",
        (Success(200, "What was done.", _ref("Recovery")),),
        (
            _TENANT,
            _NAMESPACE,
            _TYPE,
            _KEY,
            Parameter(
                "remaining",
                "query",
                "What becomes of the messages after the checkpoint.",
                {"type": "string", "enum": ["dead-letter", "redeliver"], "default": "dead-letter"},
            ),
            Parameter(
                "accept_state",
                "query",
                "Go on even if the state is not known to be what was written.",
                {"type": "boolean", "default": False},
            ),
        ),
        ("not-found", "conflict"),
    ),
    Route(
        "GET",
        "/api/v1/workflows",
        "list_workflows",
        "workflows",
        "List runs of workflows",
        "The runs of a namespace, by type and key: those that are under way, and those whose outcome is kept.",
        (Success(200, "A page of runs.", _ref("Workflows")),),
        (
            _IN_NAMESPACE,
            Parameter("type", "query", "Only those of this actor type.", _NAME_SCHEMA),
            Parameter(
                "status",
                "query",
                "Only those.",
                {"type": "string", "enum": ["running", "completed", "failed", "cancelled"]},
            ),
            _AFTER,
            _LIST_LIMIT,
        ),
    ),
    Route(
        "POST",
        _WORKFLOW,
        "start_workflow",
        "workflows",
        "Start a workflow",
        "A key has one run. Starting it again gives the run there is, or its outcome. With a wait its result comes "
        "back; without one, how far it is.",
        (
            Success(202, "It is kept, and runs until it ends.", _ref("Workflow")),
            Success(200, "It has ended: what it returned.", {"description": "Whatever `run` returned."}),
        ),
        (_TYPE, _KEY, _IN_NAMESPACE, _WAIT, _PREFER, _TRACEPARENT),
        (*_DELIVERY_ERRORS, "not-found", "payload-too-large", "unsupported-media-type"),
        body=_ARGUMENTS_BODY,
    ),
    Route(
        "GET",
        _WORKFLOW,
        "get_workflow",
        "workflows",
        "Look at a run",
        "How far it is, what it waits for, and how it ended.",
        (Success(200, "The run.", _ref("Workflow")),),
        (_TYPE, _KEY, _IN_NAMESPACE),
        ("not-found",),
    ),
    Route(
        "DELETE",
        _WORKFLOW,
        "forget_workflow",
        "workflows",
        "Forget a run",
        "Its outcome is deleted, and the key can be started anew. The run has to have ended.",
        (Success(204, "It is forgotten."),),
        (_TYPE, _KEY, _IN_NAMESPACE),
        ("not-found", "conflict"),
    ),
    Route(
        "POST",
        _WORKFLOW + "/cancel",
        "cancel_workflow",
        "workflows",
        "Cancel a run",
        "The run is told at its next boundary of a step, at once if it waits there. What it has done is undone by the "
        "compensations of its steps.",
        (Success(202, "It will be told.", _ref("Workflow")),),
        (_TYPE, _KEY, _IN_NAMESPACE),
        ("not-found", "conflict", "payload-too-large", "unsupported-media-type"),
        body={
            _JSON: {
                "type": "object",
                "properties": {"reason": {"type": "string", "maxLength": 1000}},
                "additionalProperties": False,
            }
        },
    ),
    Route(
        "POST",
        _WORKFLOW + "/signals/{name}",
        "signal_workflow",
        "workflows",
        "Signal a workflow",
        "The run takes it at its next boundary of a step; where none is under way it is a message to the actor.",
        (Success(202, "It is kept.", _ref("Told")),),
        (
            _TYPE,
            _KEY,
            Parameter("name", "path", "The signal.", {"type": "string", "minLength": 1, "maxLength": 128}, True),
            _IN_NAMESPACE,
            _TRACEPARENT,
        ),
        (*_DELIVERY_ERRORS, "payload-too-large", "unsupported-media-type"),
        body=_ARGUMENTS_BODY,
    ),
    Route(
        "GET",
        _WORKFLOW + "/queries/{name}",
        "query_workflow",
        "workflows",
        "Query a workflow",
        "Answered from the state at the run's last boundary, however long it waits. The query's parameters but "
        "`namespace` are the arguments, read as those of an ask.",
        (_REPLY,),
        (
            _TYPE,
            _KEY,
            Parameter("name", "path", "The query.", {"type": "string", "minLength": 1, "maxLength": 128}, True),
            _IN_NAMESPACE,
            _PREFER,
            _TRACEPARENT,
        ),
        _DELIVERY_ERRORS,
    ),
    Route(
        "GET",
        "/api/v1/promises",
        "list_promises",
        "workflows",
        "List promises",
        "What somebody is to give a value, and what has one, by id.",
        (Success(200, "A page of promises.", _ref("Promises")),),
        (
            _IN_NAMESPACE,
            Parameter("resolved", "query", "Only those that have a value, or none.", {"type": "boolean"}),
            _AFTER,
            _LIST_LIMIT,
        ),
    ),
    Route(
        "GET",
        "/api/v1/promises/{id}",
        "get_promise",
        "workflows",
        "Look at a promise",
        "Who made it, what it is about, and its value.",
        (Success(200, "The promise.", _ref("Promise")),),
        (_PROMISE, _IN_NAMESPACE),
        ("not-found",),
    ),
    Route(
        "POST",
        "/api/v1/promises/{id}",
        "resolve_promise",
        "workflows",
        "Resolve a promise",
        "Gives it its value, and whoever waits for it goes on. The same value again changes nothing.",
        (Success(200, "It is resolved.", _ref("Promise")),),
        (_PROMISE, _IN_NAMESPACE),
        ("not-found", "conflict", "limit-exceeded", "payload-too-large", "unsupported-media-type"),
        body={_JSON: {"description": "The value, any JSON; nothing for null."}},
    ),
    Route(
        "POST",
        "/v1/chat/completions",
        "chat_completions",
        "chat",
        "Chat, as OpenAI's clients do",
        "A conversation with MiniClaw's agents in the words of OpenAI's API, streamed with `stream`. With "
        "`X-Session-Id` the session's agent keeps the conversation and runs its own tools; without, the client sends "
        "all of it, and may bring tools of its own.",
        (Success(200, "The answer; with `stream`, its pieces as Server-Sent Events.", {"type": "object"}),),
        (
            Parameter("X-Session-Id", "header", "The session; the first to name it owns it.", {"type": "string"}),
            Parameter("X-Namespace", "header", "Where MiniClaw is deployed; `default` without it.", {"type": "string"}),
            Parameter("X-Session-Events", "header", "`true`: a stream has the session's events.", {"type": "string"}),
        ),
        (*_DELIVERY_ERRORS, "not-found", "payload-too-large", "unsupported-media-type"),
        body={_JSON: {"type": "object", "required": ["messages"], "properties": {"messages": {"type": "array"}}}},
    ),
    Route(
        "GET",
        "/v1/models",
        "chat_models",
        "chat",
        "List models, as OpenAI's clients do",
        "The models that MiniClaw's router knows, and `auto`, which lets it choose.",
        (Success(200, "The models.", {"type": "object"}),),
        (Parameter("X-Namespace", "header", "Where MiniClaw is deployed; `default` without it.", {"type": "string"}),),
        (*_DELIVERY_ERRORS, "not-found"),
    ),
    Route(
        "GET",
        "/chat",
        "chat_page",
        "chat",
        "The chat page",
        "A page for a browser. It asks for a token and keeps it in that browser's tab; `plexspaces chat --web` prints "
        "an address that has one.",
        (Success(200, "The page.", {"type": "string"}, "text/html; charset=utf-8"),),
        public=True,
    ),
    Route(
        "GET",
        "/api/v1/links",
        "list_links",
        "links",
        "List ways out",
        "The links of the tenant's applications and those of the node: where each leads, what it lets through, and how "
        "it fares; never a secret.",
        (Success(200, "The links.", _ref("Links")),),
    ),
    Route(
        "GET",
        "/api/v1/secrets",
        "list_secrets",
        "secrets",
        "List secrets",
        "The tenant's secrets by name: version, when and by whom they were set, which links use them; never a value.",
        (Success(200, "The secrets.", _ref("Secrets")),),
    ),
    Route(
        "GET",
        "/api/v1/secrets/{name}",
        "get_secret",
        "secrets",
        "Look at a secret",
        "What may be known of it; never its value.",
        (Success(200, "The secret.", _ref("Secret")),),
        (_SECRET,),
        ("not-found",),
    ),
    Route(
        "PUT",
        "/api/v1/secrets/{name}",
        "put_secret",
        "secrets",
        "Set a secret",
        "Keeps the value, in place of the one before. Nothing gives it back: the node puts it into requests through "
        "the links that name it.",
        (Success(201, "It is kept.", _ref("Secret")), Success(200, "It replaces the one before.", _ref("Secret"))),
        (_SECRET,),
        ("limit-exceeded", "payload-too-large", "unsupported-media-type"),
        body={
            _JSON: {
                "type": "object",
                "required": ["value"],
                "properties": {
                    "value": {
                        "type": "string",
                        "writeOnly": True,
                        "format": "secret",
                        "minLength": 8,
                        "description": "8 bytes to 64 KiB of UTF-8.",
                    }
                },
                "additionalProperties": False,
            }
        },
    ),
    Route(
        "DELETE",
        "/api/v1/secrets/{name}",
        "delete_secret",
        "secrets",
        "Remove a secret",
        "Requests through links that name it are refused from then on.",
        (Success(204, "It is gone."),),
        (_SECRET,),
        ("not-found",),
    ),
    Route(
        "POST",
        "/api/v1/secret-key/rotate",
        "rotate_secret_key",
        "secrets",
        "Replace the master key",
        "Makes a new master key and wraps the tenants' keys anew, in one transaction. Values stay as they are.",
        (Success(200, "The new key is in use.", _ref("KeyFingerprint")),),
        (),
        ("conflict", "limit-exceeded"),
    ),
    Route(
        "GET",
        "/healthz",
        "healthz",
        "operation",
        "Is the process alive",
        "Answers as long as the event loop turns.",
        (Success(200, "Alive.", _ref("Status")),),
        public=True,
    ),
    Route(
        "GET",
        "/readyz",
        "readyz",
        "operation",
        "Does the node take work",
        "503 from the moment the node begins to stop.",
        (Success(200, "It does.", _ref("Status")),),
        public=True,
    ),
    Route(
        "GET",
        "/metrics",
        "metrics",
        "operation",
        "Figures for Prometheus",
        "Totals and gauges of the whole node; nothing in them tells one tenant from another.",
        (Success(200, "The figures.", {"type": "string"}, "text/plain"),),
        public=True,
    ),
    Route(
        "GET",
        "/openapi.json",
        "openapi",
        "operation",
        "This description",
        "OpenAPI 3.1.",
        (Success(200, "The description.", {"type": "object"}),),
        public=True,
    ),
)
