"""/openapi.json: the route table and the error table as an OpenAPI 3.1 document."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

from .. import __version__
from ..actors.info import ActorInfo
from ..deployment.checks import Divergence, Report
from ..deployment.grants import GrantReport
from ..deployment.model import Deployment
from ..deployment.status import ApplicationStatus, TreeNode
from ..durability.explain import Call, Checkpoint, Message, Unreadable, Verdict
from ..durability.journals import Moved, Recovery
from ..egress.vault import SecretInfo
from ..stores.blobs import BlobInfo
from ..stores.journal import Summary
from ..stores.streams import StreamInfo
from .faults import FAULTS
from .routes import ROUTES, Route

# Every route may answer these; a route behind a token, the two others too.
_ALWAYS = ("invalid-argument", "overloaded", "unavailable", "internal")
_WITH_TOKEN = ("unauthenticated", "permission-denied")


def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PlexSpaces",
            "version": __version__,
            "description": "Sandboxed WebAssembly actors under supervision: deploy, tell, ask.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "tags": [{"name": name} for name in dict.fromkeys(route.tag for route in ROUTES)],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": _schemas(),
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for success in route.success:
        response: dict[str, Any] = {"description": success.description}
        if success.schema is not None:
            response["content"] = {success.media_type: {"schema": success.schema}}
        responses[str(success.status)] = response
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*route.errors, *_ALWAYS, *(() if route.public else _WITH_TOKEN))):
        by_status.setdefault(FAULTS[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": "; ".join(f"`{code}`: {FAULTS[code].title}" for code in codes),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "tags": [route.tag],
        "summary": route.summary,
        "description": route.description,
        "security": [] if route.public else [{"bearer": []}],
        "responses": responses,
    }
    if route.parameters:
        operation["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.where,
                "description": parameter.description,
                "required": parameter.required,
                "schema": parameter.schema,
            }
            for parameter in route.parameters
        ]
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {media_type: {"schema": schema} for media_type, schema in route.body.items()},
        }
    return operation


_JSON_TYPES: dict[object, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    tuple[str, ...]: {"type": "array", "items": {"type": "string"}},
}


def _properties(cls: type, *leave_out: str) -> dict[str, Any]:
    """The properties that a dataclass becomes in an answer."""
    hints = get_type_hints(cls)
    return {
        each.name: _JSON_TYPES.get(hints[each.name], {"type": "object"})
        for each in fields(cls)
        if each.name not in leave_out
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _optionally(properties: dict[str, Any], optional: dict[str, Any]) -> dict[str, Any]:
    return {**_object(properties), "properties": {**properties, **optional}}


def _page(name: str, schema: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            name: {"type": "array", "items": {"$ref": f"#/components/schemas/{schema}"}},
            "next": {"type": "string", "description": "Where the next page begins; absent on the last one."},
        },
        "required": [name],
    }


def _schemas() -> dict[str, Any]:
    text, integer = {"type": "string"}, {"type": "integer"}
    stream = _properties(StreamInfo)
    moved = {"type": "array", "items": {"$ref": "#/components/schemas/Moved"}}
    actor = {"tenant": text, "namespace": text, "type": text, "key": text, **_properties(ActorInfo, "address")}
    application = {"tenant": text, "namespace": text, **_properties(ApplicationStatus, "scope")}
    branch: dict[str, Any] = {
        **_properties(TreeNode, "address", "children"),
        "address": {"type": ["string", "null"], "description": "Of an actor: `type` or `type/key`."},
        "children": {"type": "array", "items": {"$ref": "#/components/schemas/TreeNode"}},
    }
    secret = {**_properties(SecretInfo), "links": {"type": "array", "items": text}}
    deployment = {"tenant": text, "namespace": text, **_properties(Deployment, "scope")}
    return {
        "Problem": {
            "type": "object",
            "description": "RFC 9457.",
            "properties": {
                "type": {"type": "string", "format": "uri"},
                "title": text,
                "status": {"type": "integer"},
                "detail": text,
                "code": {"type": "string", "enum": sorted(FAULTS)},
                "details": {"type": "object"},
            },
            "required": ["type", "title", "status", "detail", "code"],
        },
        "Told": _object({"message_id": text}),
        "Status": _object({"status": text}),
        "Actor": _object(actor),
        "ActorDetails": _object(
            {
                **actor,
                "handlers": {
                    "type": "object",
                    "description": "By operation: JSON Schemas of arguments and reply.",
                },
            }
        ),
        "Actors": _page("actors", "Actor"),
        "Deployment": _object(deployment),
        "Grants": _object(
            {
                "tenant": text,
                "namespace": text,
                **_properties(GrantReport),
                "line": {"type": "string", "description": "A line of app-config.toml; empty while none is observed."},
            }
        ),
        "Secret": _object(secret),
        "Secrets": _object({"secrets": {"type": "array", "items": {"$ref": "#/components/schemas/Secret"}}}),
        "KeyFingerprint": _object({"fingerprint": {"type": "string", "description": "Of the master key."}}),
        "Deployments": _object(
            {"deployments": {"type": "array", "items": {"$ref": "#/components/schemas/Deployment"}}}
        ),
        "Application": _object(application),
        "Applications": _object(
            {"applications": {"type": "array", "items": {"$ref": "#/components/schemas/Application"}}}
        ),
        "TreeNode": _object(branch),
        "Stream": _object(stream),
        "Streams": _page("streams", "Stream"),
        "StreamEvent": _object(
            {"offset": integer, "event_type": text, "payload": {"description": "Any JSON."}, "time_ms": integer}
        ),
        "StreamPage": _object(
            {
                **stream,
                "next": {"type": "integer", "description": "Hand it in as `after` to go on."},
                "events": {"type": "array", "items": {"$ref": "#/components/schemas/StreamEvent"}},
            }
        ),
        "Appended": {
            "type": "object",
            "properties": {
                "offset": integer,
                "event_type": text,
                "reason": {"type": "string", "enum": ["not-json", "too-large", "bad-type", "bad-shape"]},
            },
            "required": ["offset", "event_type"],
        },
        "Schedule": _object({"id": text, "path": text, "event_type": text, "timing": text, "next_ms": integer}),
        "Schedules": _object({"schedules": {"type": "array", "items": {"$ref": "#/components/schemas/Schedule"}}}),
        "Blob": _object(_properties(BlobInfo)),
        "Blobs": _page("blobs", "Blob"),
        "DeadLetter": _optionally(
            {
                "id": text,
                "kind": {"type": "string", "enum": ["channel", "actor"], "description": "What `source` is."},
                "source": {
                    "type": "string",
                    "description": "Where it could not be handled: a channel's name, or `type` or `type/key` of an "
                    "actor.",
                },
                "msg_type": text,
                "payload": {"description": "Any JSON."},
                "deliveries": {"type": "integer", "description": "How often it was tried."},
                "enqueued_ms": {"type": ["integer", "null"], "description": "When it came, where that is known."},
                "dead_ms": integer,
                "reason": {"type": "string", "description": "Why nobody tries any more."},
            },
            {"message_id": {"type": "string", "description": "Of one of an actor: the message's."}},
        ),
        "DeadLetters": _page("dead_letters", "DeadLetter"),
        "Journal": _object(
            {"tenant": text, "namespace": text, "type": text, "key": text, **_properties(Summary, "address")}
        ),
        "Journals": _page("journals", "Journal"),
        "JournalCall": _object({**_properties(Call), "result": {"description": "Any JSON."}}),
        "JournalItem": {
            "oneOf": [
                _object(
                    {
                        "what": {"type": "string", "const": "message"},
                        **_properties(Message),
                        "payload": {"description": "Any JSON."},
                        "calls": {"type": "array", "items": {"$ref": "#/components/schemas/JournalCall"}},
                        "outcome": {"description": "Any JSON."},
                    }
                ),
                _object({"what": {"type": "string", "const": "checkpoint"}, **_properties(Checkpoint)}),
                _object({"what": {"type": "string", "const": "unreadable"}, **_properties(Unreadable)}),
            ]
        },
        "JournalPage": _optionally(
            {"history": {"type": "array", "items": {"$ref": "#/components/schemas/JournalItem"}}},
            {"next": {"type": "integer", "description": "Where the next page begins; absent on the last one."}},
        ),
        "Verdict": _object({"ok": {"type": "boolean"}, **_properties(Verdict)}),
        "Moved": _object(_properties(Moved)),
        "Recovery": _object(
            {
                **_properties(Recovery),
                "redelivered": moved,
                "dead_letters": moved,
                "set_aside": {"type": "array", "items": integer},
            }
        ),
        "CheckReport": _object(
            {
                "ok": {"type": "boolean"},
                **_properties(Report),
                "diverged": {"type": "array", "items": _object(_properties(Divergence))},
            }
        ),
        "Workflow": _optionally(
            {
                "namespace": text,
                "type": text,
                "key": text,
                "run_id": {"type": "string", "description": "The message that started it."},
                "status": {"type": "string", "enum": ["running", "completed", "failed", "cancelled"]},
                "started_ms": integer,
                "ended_ms": integer,
                "step": {"type": "string", "description": 'The one under way, "" between steps.'},
                "attempt": integer,
                "steps_done": integer,
                "waits_for": {"type": "string", "description": "`sleep`, `retry`, `signal`, `promise ID` or nothing."},
                "signals_waiting": integer,
                "cancel_reason": {"type": ["string", "null"], "description": "Null until somebody asks for it."},
                "arguments": {"type": "object"},
            },
            {
                "result": {"description": "Of one that has completed: any JSON."},
                "error": {"type": "object", "description": "Of one that has not: `code`, `message`, `details`."},
            },
        ),
        "Workflows": _page("workflows", "Workflow"),
        "Promise": _optionally(
            {
                "id": text,
                "name": text,
                "owner": {"type": "string", "description": "The actor that made it."},
                "created_ms": integer,
                "resolved": {"type": "boolean"},
                "resolved_ms": integer,
            },
            {"value": {"description": "Any JSON, once it is resolved."}},
        ),
        "Promises": _page("promises", "Promise"),
        "Link": _object(
            {
                "name": text,
                "namespace": {"type": "string", "description": "Empty for a link of the node's own."},
                "base_url": text,
                "allow": {"type": "array", "items": text},
                "actors": {"type": "array", "items": text},
                "secrets": {"type": "array", "items": text, "description": "The names of those that it uses."},
                "breaker": {"type": "string", "enum": ["closed", "open", "half-open"]},
                "under_way": integer,
                "requests": integer,
                "failures": integer,
            }
        ),
        "Links": _object({"links": {"type": "array", "items": {"$ref": "#/components/schemas/Link"}}}),
        "Tree": _object({"tree": {"type": "array", "items": {"$ref": "#/components/schemas/TreeRoot"}}}),
        "TreeRoot": _object({"namespace": text, **branch}),
    }
