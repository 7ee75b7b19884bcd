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


_ACTOR: Final = "/api/v1/actors/{tenant}/{namespace}/{type}"

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
        "a message.",
        (Success(201, "Deployed.", _ref("Deployment")),),
        errors=(
            "payload-too-large",
            "unsupported-media-type",
            "invalid-component",
            "conflict",
            "limit-exceeded",
            "handler-crashed",
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
        "POST",
        "/api/v1/applications",
        "deploy_application",
        "applications",
        "Deploy an application",
        "Uploads app-config.toml and the components it names, and starts the tree. An application of that name goes "
        "over to the new configuration: only what differs changes. `path` and `source` of a component are for the "
        "command line; the node reads neither.",
        (Success(201, "Deployed; `changes` says what was done.", _ref("Application")),),
        errors=(
            "payload-too-large",
            "unsupported-media-type",
            "invalid-component",
            "not-found",
            "already-exists",
            "conflict",
            "limit-exceeded",
            "handler-crashed",
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
