"""JSON Schema, as much of it as the inputs of tools are described with.  (JSON Schema 2020-12, "Validation".)

A keyword that is not known here is refused when a tool is registered, so that no schema promises what nobody checks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_KNOWN = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "pattern",
        "description",
        "title",
        "default",
        "examples",
        "format",
    }
)
_DEPTH_MAX = 12
_SCHEMA_CHARS_MAX = 20_000
# A pattern of a stranger's could take for ever; these are the ones that cannot.
_SAFE_PATTERN = re.compile(r"\^?(?:\\?[\w .@/:,-]|\[[\w .@/:,\\-]+\])+[+*?]?\$?|\^\[[\w .@/:,\\-]+\][+*]\$")


def full(schema: Any) -> dict[str, Any]:
    """A schema in its long form: the published one, `{"query": "string"}`, names types alone."""
    if not isinstance(schema, dict) or not schema:
        return {"type": "object", "properties": {}}
    if "type" in schema and isinstance(schema["type"], str) and schema["type"] in _TYPES:
        return schema
    if all(isinstance(value, str) and value in _TYPES for value in schema.values()):
        properties = {name: {"type": value} for name, value in schema.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    return schema


def check(schema: Any) -> str:
    """What is wrong with a schema, "" for nothing."""
    if len(json.dumps(schema)) > _SCHEMA_CHARS_MAX:
        return f"the schema is longer than {_SCHEMA_CHARS_MAX} characters"
    return next(_faults(schema, "input_schema", 0), "")


def _faults(schema: Any, where: str, depth: int) -> Iterator[str]:
    if not isinstance(schema, dict):
        yield f"{where} is no object"
        return
    if depth > _DEPTH_MAX:
        yield f"{where} is nested too deeply"
        return
    for keyword in schema:
        if keyword not in _KNOWN:
            yield f"{where}.{keyword} is not checked here: leave it out"
    if "type" in schema and schema["type"] not in _TYPES:
        yield f"{where}.type is one of {', '.join(_TYPES)}"
    if "pattern" in schema and not _SAFE_PATTERN.fullmatch(str(schema["pattern"])):
        yield f"{where}.pattern is not one of the simple ones that are checked here"
    for name, each in (schema.get("properties") or {}).items():
        yield from _faults(each, f"{where}.properties.{name}", depth + 1)
    if "items" in schema:
        yield from _faults(schema["items"], f"{where}.items", depth + 1)


def problems(value: Any, schema: dict[str, Any], where: str = "input") -> list[str]:
    """Everything that is wrong with a value, each in words that a model can act on."""
    return list(_problems(value, schema, where))


def _problems(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    type_ = schema.get("type")
    if type_ and (not isinstance(value, _TYPES[type_]) or (isinstance(value, bool) and type_ in ("integer", "number"))):
        yield f"{where} is not of type {type_}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is one of {json.dumps(schema['enum'])}"
    if "const" in schema and value != schema["const"]:
        yield f"{where} is {json.dumps(schema['const'])}"
    if isinstance(value, str):
        yield from _bounded(len(value), schema, "minLength", "maxLength", f"the length of {where}")
        if "pattern" in schema and not re.search(schema["pattern"], value[:10_000]):
            yield f"{where} does not match {schema['pattern']!r}"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _bounded(value, schema, "minimum", "maximum", where)
    elif isinstance(value, list):
        yield from _bounded(len(value), schema, "minItems", "maxItems", f"the number of items of {where}")
        for position, item in enumerate(value):
            yield from _problems(item, schema.get("items") or {}, f"{where}[{position}]")
    elif isinstance(value, dict):
        known = schema.get("properties") or {}
        for name in schema.get("required") or ():
            if name not in value:
                yield f"{where}.{name} is missing"
        for name, each in value.items():
            if name in known:
                yield from _problems(each, known[name], f"{where}.{name}")
            elif schema.get("additionalProperties", not known) is False or (
                known and "additionalProperties" not in schema
            ):
                yield f"{where}.{name} is not known; there are {', '.join(known) or 'none'}"


def _bounded(value: float, schema: dict[str, Any], low: str, high: str, what: str) -> Iterator[str]:
    if low in schema and value < schema[low]:
        yield f"{what} is at least {schema[low]}"
    if high in schema and value > schema[high]:
        yield f"{what} is at most {schema[high]}"
