"""/openapi.json: the route table and the error table as an OpenAPI 3.1 document."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

from .. import __version__
from ..actors.info import ActorInfo
from ..deployment.model import Deployment
from ..deployment.status import ApplicationStatus, TreeNode
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


def _schemas() -> dict[str, Any]:
    text = {"type": "string"}
    actor = {"tenant": text, "namespace": text, "type": text, "key": text, **_properties(ActorInfo, "address")}
    application = {"tenant": text, "namespace": text, **_properties(ApplicationStatus, "scope")}
    branch: dict[str, Any] = {
        **_properties(TreeNode, "address", "children"),
        "address": {"type": ["string", "null"], "description": "Of an actor: `type` or `type/key`."},
        "children": {"type": "array", "items": {"$ref": "#/components/schemas/TreeNode"}},
    }
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
        "Actors": {
            "type": "object",
            "properties": {
                "actors": {"type": "array", "items": {"$ref": "#/components/schemas/Actor"}},
                "next": {"type": "string", "description": "Hand it in as `after`; absent on the last page."},
            },
            "required": ["actors"],
        },
        "Deployment": _object(deployment),
        "Deployments": _object(
            {"deployments": {"type": "array", "items": {"$ref": "#/components/schemas/Deployment"}}}
        ),
        "Application": _object(application),
        "Applications": _object(
            {"applications": {"type": "array", "items": {"$ref": "#/components/schemas/Application"}}}
        ),
        "TreeNode": _object(branch),
        "Tree": _object({"tree": {"type": "array", "items": {"$ref": "#/components/schemas/TreeRoot"}}}),
        "TreeRoot": _object({"namespace": text, **branch}),
    }
