"""Every host function and every HTTP route, called by a stranger, against a tenant that has something of everything.

The reference is what the stranger gets where there is nothing of anybody else's: the same calls, in the same order, on
the same node, before the owner has anything.  What it gets afterwards must be the same to the byte, once ids and times
are taken out, and the owner must have what it had.  There are two strangers: another tenant, and another namespace of
the same tenant.  Their calls name the owner's things as the owner does, and in every way that might reach over.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.routes import ROUTES
from plexspaces_runtime.api.server import HttpServer
from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.errors import PlexSpacesError
from plexspaces_runtime.events import Event, FiberOffloaded
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.database import FILE
from plexspaces_runtime.wasm import wit
from tests.nodes import TestBed, running

pytestmark = pytest.mark.guest
on_the_modules_loop = pytest.mark.asyncio(loop_scope="module")

OWNER = Scope("acme", "default")
# In everything that the owner stores: no stranger may ever read it.
CANARY = "canary-7c1f"
WAIT_MS = 40
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

FUNCTIONS = [
    f"{interface.name}.{function.name}"
    for interface in wit.load().interfaces.values()
    for function in interface.functions.values()
]
OPERATIONS = [route.operation for route in ROUTES]


# -- what the stranger says --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loot:
    """Ids that the node gave to the owner.  By default such as nobody was ever given."""

    message: str = "message-987654321"
    dead_letter: str = "message-987654322"
    tuple: str = "tuple-987654321"
    lock: str = "lock-0123456789ab-fffff1"
    timer: str = "timer-0123456789ab-fffff2"
    asked: str = "m-0123456789ab-fffff3"
    monitor: str = "ref-0123456789ab-fffff4"
    channel_subscription: str = "channel-subscription-987654321"
    tuple_subscription: str = "tuple-subscription-987654321"
    stream_subscription: str = "subscription-0123456789ab-fffff6"
    schedule: str = "schedule-0123456789ab-fffff7"
    promise: str = "promise-0123456789ab-fffff8"


@dataclass(frozen=True)
class Stranger:
    """Who calls.

    Attributes:
        application: what it calls an application of its own: names of applications are the tenant's.
    """

    scope: Scope
    application: str
    token: str


def forged(name: str) -> list[str]:
    """A name as the owner says it, and in ways that might mean the owner's where they are put together carelessly."""
    tenant, namespace = OWNER.tenant, OWNER.namespace
    joined = [separator.join((tenant, namespace, name)) for separator in "/:|.\x00\x1f\t,;"]
    return [
        name,
        *joined,
        f"/{tenant}/{namespace}/{name}",
        f"../{name}",
        f"../{namespace}/{name}",
        f"../../{tenant}/{namespace}/{name}",
        f"./{name}",
        f"{name}/..",
        f"{name}\x00",
        f"\x00{name}",
        f"{name} ",
        name.upper(),
        # A full-width solidus and letter, a zero-width space, a right-to-left override, a combining dot.
        f"{tenant}\uff0f{namespace}\uff0f{name}",
        f"\uff41cme/{namespace}/{name}",
        f"{name}\u200b",
        f"\u202e{name}",
        f"{name}\u0323",
        f"{name}' OR tenant='{tenant}",
        f'{{"tenant": "{tenant}", "name": "{name}"}}',
        f"{tenant}%2F{namespace}%2F{name}",
        "%",
        "_" * len(name),
        "*",
        "*prober",
        "",
    ]


def request_of(link: str) -> dict[str, object]:
    """A request through a service link."""
    return record(
        "Request", link=link, method="GET", path="/", headers="{}", body="", body_base64=False, timeout_ms=1_000
    )


def record(name: str, **values: object) -> dict[str, object]:
    return {"$record": name, "fields": values}


def calls(loot: Loot) -> dict[str, list[list[Any]]]:
    """By function, the arguments of each call."""
    victims = [*forged("victim"), "sleeper", "sleeper/acme", "prober/kept", "acme/default", "witness"]
    plain = record("SendOptions", delay_ms=0, ttl_ms=0, dedup_id="")
    jobs = [
        '["job", null, null]',
        f'["job", 1, "{CANARY}"]',
        "[null, null, null]",
        '[{"$type": "str"}, {"$type": "int"}, {"$type": "str"}]',
        '["job", {"$pred": [">=", 0]}, {"$pred": ["prefix", ""]}]',
        '["acme", "default", "job", null, null]',
        '["acme", null, null]',
    ]
    text = base64.b64encode(b"mine").decode()
    return {
        "messaging.ask": [[name, "note", "{}", 1_000] for name in victims],
        "messaging.ask-many": [[[record("Request", to=name, op="note", payload="{}") for name in victims], 1_000]],
        "messaging.send": [[name, "note", "{}"] for name in victims],
        "messaging.reply": [[message, f'"{message}"'] for message in (loot.asked, "", "acme/" + loot.asked)],
        "lifecycle.self-id": [[]],
        "lifecycle.spawn": [
            *(
                [record("SpawnOptions", actor_type=name, key="", args="{}", link=True, monitor=True)]
                for name in forged("victim")
            ),
            [record("SpawnOptions", actor_type="prober", key="kept", args="{}", link=False, monitor=False)],
            [record("SpawnOptions", actor_type="prober", key="../../acme", args="{}", link=False, monitor=False)],
        ],
        "lifecycle.stop": [[name, "shutdown"] for name in victims if name != "prober/kept"],
        "lifecycle.link": [[name] for name in victims],
        "lifecycle.unlink": [[name] for name in victims],
        "lifecycle.monitor": [[name] for name in victims],
        "lifecycle.demonitor": [[loot.monitor], ["acme/" + loot.monitor], [""]],
        "lifecycle.trap-exit": [[True]],
        "timers.send-after": [[HOUR_MS, "note", "{}"]],
        "timers.send-interval": [[HOUR_MS, "note", "{}"]],
        "timers.cancel": [[loot.timer], ["acme/" + loot.timer], [""]],
        "clock.now-ns": [[]],
        "clock.monotonic-ns": [[]],
        "clock.sleep-ns": [[1_000]],
        "random.random-hex": [[8]],
        "random.random-u64": [[]],
        "process-groups.join": [[name] for name in forged("crew")],
        "process-groups.members": [[name] for name in forged("crew")],
        "process-groups.first": [[name] for name in forged("crew")],
        "process-groups.broadcast": [[name, "note", "{}"] for name in forged("crew")],
        "process-groups.leave": [[name] for name in forged("crew")],
        "registry.find": [
            [record("Query", actor_type=type_, capability=capability, label=label, limit=0)]
            for type_, capability, label in [
                ("", "", ""),
                ("", "", "team"),
                ("", "", "team=red"),
                ("", "keyvalue", ""),
                *((name, "", "") for name in forged("victim")),
                *(("", "", name) for name in forged("team=red")),
            ]
        ],
        "registry.set-label": [["team", "red"], ["tenant", "acme"], ["namespace", "default"]],
        "keyvalue.get": [[name] for name in forged("plan")],
        "keyvalue.list-keys": [
            *([prefix, "", 0] for prefix in forged("plan")),
            *(["", cursor, 1] for cursor in ("plan", "acme/default/plan", "\x00", "zzz")),
        ],
        "keyvalue.put": [*([name, '"mine"', None] for name in forged("plan")), ["fleeting", "1", DAY_MS]],
        "keyvalue.compare-and-set": [
            *([name, f'"{CANARY}"', None] for name in forged("plan")),
            *([name, None, '"mine"'] for name in forged("plan")),
        ],
        "keyvalue.increment": [[name, 1] for name in forged("count")],
        "keyvalue.delete": [[name] for name in forged("plan")],
        "tuplespace.count": [[pattern] for pattern in jobs],
        "tuplespace.read": [[pattern, wait] for pattern, wait in [*((each, 0) for each in jobs), (jobs[0], WAIT_MS)]],
        "tuplespace.read-all": [[pattern, 0] for pattern in jobs],
        "tuplespace.take": [[pattern, wait] for pattern, wait in [*((each, 0) for each in jobs), (jobs[0], WAIT_MS)]],
        "tuplespace.take-all": [[pattern, 0] for pattern in jobs],
        "tuplespace.write": [
            ['["job", 1, "mine"]', None],
            ['["awaited", 1]', None],
            ['["fed", 1]', None],
            ['["acme", "default", "job", 1, "mine"]', DAY_MS],
        ],
        "tuplespace.subscribe": [['["fed", null]', "note"], ["[null, null, null]", "note"]],
        "tuplespace.unsubscribe": [[loot.tuple_subscription], [loot.tuple], [""]],
        "channels.depth": [[name] for name in forged("orders")],
        "channels.receive": [
            *([name, 0, HOUR_MS] for name in (*forged("orders"), "failed")),
            *([name, WAIT_MS, HOUR_MS] for name in ("orders", "failed", "acme/default/orders")),
        ],
        "channels.send": [
            *([name, "order", '"mine"', plain] for name in forged("orders")),
            ["awaited", "order", '"mine"', plain],
            ["pushed", "order", '"mine"', plain],
            ["orders", "order", '"mine"', record("SendOptions", delay_ms=0, ttl_ms=0, dedup_id="once")],
        ],
        "channels.ack": [[name, loot.message] for name in forged("orders")] + [["failed", loot.dead_letter]],
        "channels.nack": [[name, loot.message, False, 0] for name in forged("orders")],
        "channels.extend": [[name, loot.message, HOUR_MS] for name in forged("orders")],
        "channels.subscribe": [["backlog", "note"], ["acme/default/backlog", "note"]],
        "channels.unsubscribe": [[loot.channel_subscription], ["acme/" + loot.channel_subscription], [""]],
        "locks.acquire": [*([name, DAY_MS, 0] for name in forged("gate")), ["gate", DAY_MS, WAIT_MS]],
        "locks.renew": [[name, loot.lock, DAY_MS] for name in forged("gate")],
        "locks.release": [[name, loot.lock] for name in forged("gate")],
        "blobs.stat": [[name] for name in forged("report")],
        "blobs.get": [[name] for name in forged("report")],
        "blobs.get-range": [[name, 0, 9] for name in forged("report")],
        "blobs.list-blobs": [
            *([prefix, "", 0] for prefix in forged("report")),
            *(["", cursor, 0] for cursor in ("reporo", "acme/default/report")),
        ],
        "blobs.put": [[name, text, "text/plain"] for name in forged("report")],
        "blobs.delete": [[name] for name in forged("report")],
        "streams.read": [[name, 0, 0] for name in forged("/log")],
        "streams.append": [
            *([name, "note", '"mine"', ""] for name in forged("/log")),
            ["/log", "note", '"mine"', "once"],
        ],
        "streams.subscribe": [["/log", 0, "note"], ["/acme/default/log", 0, "note"], ["/quiet", 0, "note"]],
        "streams.unsubscribe": [[loot.stream_subscription], ["acme/" + loot.stream_subscription], [""]],
        "http.fetch": [[request_of(name)] for name in forged("bank")],
        "http.fetch-stream": [[request_of("bank")]],
        "http.read-chunk": [["stream-1"], ["acme/stream-1"], [""]],
        "http.close": [["stream-1"], ["acme/stream-1"], [""]],
        "http.register-credential": [
            *([f"phantom-{number}", CANARY[::-1], [name]] for number, name in enumerate(forged("bank"))),
            ["phantom-acme", "phantom-acme", ["bank"]],
        ],
        "http.forget-credential": [[name] for name in forged("phantom-acme")],
        "workflow.step-begin": [["charge", "{}"]],
        "workflow.step-succeeded": [["charge", '"mine"']],
        "workflow.step-failed": [["charge", "no"]],
        "workflow.sleep-ms": [[1]],
        "workflow.promise-create": [["approval"]],
        "workflow.promise-await": [[f"{where}{loot.promise}", WAIT_MS] for where in ("", "acme/", "acme/default/")],
        "workflow.promise-resolve": [[f"{where}{loot.promise}", '"mine"'] for where in ("", "acme/", "acme/default/")],
        "workflow.next-signal": [[0]],
        "workflow.cancelled": [[]],
        "workflow.publish-state": [['"mine"']],
        "logging.log": [[{"$enum": "Level", "case": "INFO"}, "acme/default/witness says so"]],
    }


# Chance and time, whoever asks.
VARIES = {"clock.now-ns", "clock.monotonic-ns", "random.random-hex", "random.random-u64"}


@dataclass(frozen=True)
class Sent:
    """A request over HTTP; the stranger's own token is shown unless there is another."""

    method: str
    target: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    token: str | None = None


JSON = (("content-type", "application/json"),)
KEYED = (*JSON, ("idempotency-key", "same"))
FORM = (("content-type", "multipart/form-data; boundary=bound"),)
FORGED_HEADERS = (
    ("x-tenant", "acme"),
    ("x-tenant-id", "acme"),
    ("x-plexspaces-tenant", "acme"),
    ("x-plexspaces-namespace", "default"),
    ("x-plexspaces-scope", "acme/default"),
    ("x-scope-orgid", "acme"),
    ("x-forwarded-user", "ada"),
    ("x-forwarded-host", "acme"),
    ("x-original-url", "/api/v1/streams/log"),
    ("x-rewrite-url", "/api/v1/blobs/default/report"),
    ("x-http-method-override", "DELETE"),
    ("forwarded", "for=acme;host=acme"),
    ("cookie", "tenant=acme"),
)
# With a name of the owner's: nothing is to be learnt of it, and nothing goes out by it.
LINK = """
[links.bank]
base_url = "https://bank.invalid"
allow = ["GET /**", "POST /**"]
auth = {{ header = "authorization", value = "Bearer ${{secret:bank}}" }}
"""
APPLICATION = """
[application]
name = "{name}"
namespace = "{namespace}"
[[components]]
name = "code"
path = "code.wasm"
[supervisor]
[[supervisor.children]]
name = "clerk"
actor_type = "code"
[[supervisor.children]]
name = "sleeper"
actor_type = "code"
facets = [{{ type = "virtual_actor", priority = 100, config = {{ idle_timeout = "1h" }} }}]
"""


def form(parts: dict[str, bytes]) -> bytes:
    """A multipart body; what begins as WebAssembly does is a file."""
    lines = []
    for name, content in parts.items():
        file = f'; filename="{name}.wasm"' if content.startswith(b"\0asm") else ""
        lines.append(f'--bound\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content)
    return b"\r\n".join([*lines, b"--bound--\r\n"])


def requests(stranger: Stranger, loot: Loot, wasm: bytes) -> dict[str, list[Sent]]:
    """By operation, what is sent."""
    tenant, namespace = stranger.scope.tenant, stranger.scope.namespace
    mine = f"namespace={namespace}"
    # Where things are, in the stranger's eyes and in forged ones; `actors` are those of a type of the owner's too.
    owners = ["acme", "%61cme", "ACME", "acme%2Fdefault", "acme%00", "acme.", "..%2Facme", "%EF%BD%81cme", "%2e%2e"]
    actors = [
        f"/api/v1/actors/{place}/{type_}"
        for place in (f"{tenant}/{namespace}", *(f"{owner}/default" for owner in owners))
        for type_ in ("victim", "prober", "sleeper", "clerk", "nobody", "acme%2Fdefault%2Fvictim")
    ]
    namespaces = [mine, "namespace=default", *(f"namespace={quote(name, safe='')}" for name in forged("default"))]
    chat = b'{"model": "auto", "messages": [{"role": "user", "content": "hello"}]}'
    chatting = [
        (),
        (("x-namespace", "default"),),
        (("x-namespace", namespace), ("x-session-id", "acme")),
        *((("x-namespace", name),) for name in ("acme/default", "../default", "default%00")),
    ]
    wanted = [*namespaces, "tenant=acme", f"{mine}&tenant=acme", f"{mine}&namespace=default", "scope=acme/default"]
    places = [namespace, *(quote(name, safe="") for name in forged("default"))]
    blobs = [
        f"/api/v1/blobs/{place}/{name}"
        for place in places
        for name in ("report", "..%2Freport", "acme/default/report", "%2e%2e/%2e%2e/acme/default/report")
    ]
    blobs += [f"/api/v1/blobs/{namespace}/{quote(name, safe='')}" for name in forged("report")]
    streams = [f"/api/v1/streams/log?{query}" for query in wanted]
    streams += [f"/api/v1/streams/{quote(name[1:] or '-', safe='/')}?{mine}" for name in forged("/log")]
    letters = [
        f"/api/v1/dead-letters/{quote(id_, safe='')}"
        for id_ in (loot.dead_letter, loot.message, "acme/" + loot.dead_letter, "*", loot.dead_letter + "\x00")
    ]
    schedules = [
        f"/api/v1/schedules/{quote(id_, safe='')}" for id_ in (loot.schedule, "acme/" + loot.schedule, "*", "%")
    ]
    workflows = [
        f"/api/v1/workflows/{type_}/{key}"
        for type_ in ("trip", "prober")
        for key in ("lisbon", "acme%2Fdefault%2Flisbon")
    ]
    promises = [
        f"/api/v1/promises/{quote(id_, safe='')}"
        for id_ in (loot.promise, "acme/" + loot.promise, "acme/default/" + loot.promise, loot.promise + "\x00", "*")
    ]
    # The owner's trip has one.
    trip = f"/api/v1/actors/{tenant}/{namespace}/trip"
    journals = [each.replace("/actors/", "/journals/") for each in (*actors, trip)]
    journals += [f"/api/v1/journals/{owner}/default/trip" for owner in owners]
    note = b'{"op": "note"}'
    event = b'{"event_type": "note", "payload": "mine"}'
    tick = b'{"path": "/log", "event_type": "tick", "payload": "mine", "every_s": 86400}'
    own = stranger.application
    application = {"config": APPLICATION.format(name=own, namespace=namespace).encode(), "code": wasm}
    other_tenant = {"config": APPLICATION.format(name=own, namespace="acme/default").encode(), "code": wasm}
    extra = {"namespace": namespace.encode(), "actor_type": b"extra", "wasm": wasm}
    applications = ["shop", own, "acme%2Fshop", "..%2Fshop", "SHOP", "shop%00", "nobody"]
    about = ["", "/acme", "/default"]
    return {
        "list_actors": [Sent("GET", f"/api/v1/actors?{query}") for query in (*wanted, "after=", "after=default/t")],
        "get_actor": [Sent(method, f"{actor}?op=note") for actor in actors for method in ("GET", "HEAD")],
        "get_actor_by_key": [Sent("GET", f"{actor}/acme?op=note") for actor in actors],
        "get_info": [Sent("GET", f"{actor}/info") for actor in actors],
        "get_info_by_key": [Sent("GET", f"{actor}/acme/info") for actor in actors],
        "post_actor": [
            *(Sent("POST", f"{actor}{wait}", note, JSON) for actor in actors for wait in ("", "?wait=5")),
            *(Sent("POST", f"{actor}?wait=5", note, KEYED) for actor in actors),
        ],
        "post_actor_by_key": [Sent("POST", f"{actor}/acme?wait=5", note, JSON) for actor in actors],
        "list_deployments": [Sent("GET", f"/api/v1/deployments?{query}") for query in wanted],
        "list_links": [Sent("GET", f"/api/v1/links{query}") for query in ("", *(f"?{each}" for each in wanted))],
        "list_secrets": [Sent("GET", f"/api/v1/secrets{query}") for query in ("", *(f"?{each}" for each in wanted))],
        "get_secret": [Sent("GET", f"/api/v1/secrets/{quote(name, safe='')}") for name in forged("bank")],
        "put_secret": [
            Sent("PUT", f"/api/v1/secrets/{quote(name, safe='')}?{query}", b'{"value": "mine, not yours"}', JSON)
            for name in forged("bank")
            for query in ("", "tenant=acme")
        ],
        "delete_secret": [Sent("DELETE", f"/api/v1/secrets/{quote(name, safe='')}") for name in forged("bank")],
        "rotate_secret_key": [Sent("POST", "/api/v1/secret-key/rotate")],
        "chat_page": [Sent("GET", "/chat")],
        "chat_models": [Sent("GET", "/v1/models", b"", headers) for headers in chatting],
        "chat_completions": [Sent("POST", "/v1/chat/completions", chat, (*JSON, *headers)) for headers in chatting],
        "show_grants": [Sent("GET", f"/api/v1/grants/{name}/t") for name in places],
        "observe_type": [Sent("PUT", f"/api/v1/grants/{name}/t/observe") for name in places],
        "forget_observed": [Sent("DELETE", f"/api/v1/grants/{name}/t/observe") for name in places],
        "deploy": [
            Sent("POST", "/api/v1/deploy", form(extra), FORM),
            *(
                Sent("POST", "/api/v1/deploy", form({**extra, "namespace": name.encode(), "wasm": b"\0asm"}), FORM)
                for name in forged("default")
            ),
            Sent("POST", "/api/v1/deploy", form({**extra, "tenant": b"acme", "wasm": b"\0asm"}), FORM),
        ],
        "tree": [Sent("GET", f"/api/v1/tree?{query}") for query in ("", *wanted)],
        "get_application": [Sent("GET", f"/api/v1/applications/{name}") for name in applications],
        "restart_application": [Sent("POST", f"/api/v1/applications/{name}/restart") for name in applications],
        "deploy_application": [
            Sent("POST", "/api/v1/applications", form(application), FORM),
            Sent("POST", "/api/v1/applications", form(other_tenant), FORM),
        ],
        "list_applications": [Sent("GET", f"/api/v1/applications?{query}") for query in ("", *wanted)],
        "list_streams": [
            Sent("GET", f"/api/v1/streams?{query}{more}") for query in wanted for more in ("", "&prefix=/", "&after=/a")
        ],
        "read_stream": [
            *(Sent(method, stream) for stream in streams for method in ("GET", "HEAD")),
            *(Sent("GET", f"{stream}&live=true") for stream in (*streams[:3], *streams[-3:])),
            Sent("GET", f"/api/v1/streams/log?{mine}&live=true", headers=(("last-event-id", "0"),)),
        ],
        "append_event": [
            *(Sent("POST", stream, event, JSON) for stream in streams),
            *(Sent("POST", stream, event, KEYED) for stream in streams),
        ],
        "change_stream": [
            Sent("PATCH", stream, body, JSON)
            for stream in streams
            for body in (b'{"flow": "held"}', b'{"flow": "flowing"}')
        ],
        "add_schedule": [
            *(Sent("POST", f"/api/v1/schedules?{query}", tick, JSON) for query in wanted),
            Sent("POST", f"/api/v1/schedules?{mine}", tick.replace(b"/log", b"/../acme/default/log"), JSON),
            Sent("POST", f"/api/v1/schedules?{mine}", tick[:-1] + b', "tenant": "acme"}', JSON),
        ],
        "list_schedules": [Sent("GET", f"/api/v1/schedules?{query}") for query in wanted],
        "remove_schedule": [Sent("DELETE", f"{each}?{query}") for each in schedules for query in wanted],
        "list_blobs": [
            Sent("GET", f"/api/v1/blobs/{place}{more}")
            for place in places
            for more in ("", "?prefix=rep", "?cursor=a", "?tenant=acme")
        ],
        "get_blob": [
            *(Sent(method, blob) for blob in blobs for method in ("GET", "HEAD")),
            Sent("GET", blobs[0], headers=(("range", "bytes=0-3"),)),
            Sent("GET", blobs[0], headers=(("if-none-match", f'"{hashlib.sha256(CANARY.encode()).hexdigest()}"'),)),
        ],
        "put_blob": [
            *(Sent("PUT", blob, b"mine", (("if-none-match", "*"),)) for blob in blobs),
            *(Sent("PUT", blob, b"mine") for blob in blobs),
        ],
        "delete_blob": [Sent("DELETE", blob) for blob in blobs],
        "list_dead_letters": [
            Sent("GET", f"/api/v1/dead-letters?{query}{more}")
            for query in wanted
            for more in ("", "&source=failed", "&source=acme/default/failed", f"&after={loot.message}", "&after=x")
        ],
        "retry_dead_letter": [Sent("POST", f"{each}/retry?{query}") for each in letters for query in wanted],
        "drop_dead_letter": [Sent("DELETE", f"{each}?{query}") for each in letters for query in wanted],
        "list_journals": [Sent("GET", f"/api/v1/journals?{query}") for query in ("", *wanted, f"{mine}&after=a")],
        "show_journal": [Sent("GET", journal) for journal in journals],
        "show_journal_by_key": [Sent("GET", f"{journal}/lisbon") for journal in journals],
        "verify_journal": [Sent("GET", f"{journal}/lisbon/verify") for journal in journals],
        "recover_journal": [
            Sent("POST", f"{journal}/lisbon/recover{how}")
            for journal in journals
            for how in ("", "?remaining=redeliver")
        ],
        "list_workflows": [
            Sent("GET", f"/api/v1/workflows?{query}{more}")
            for query in wanted
            for more in ("", "&type=trip", "&status=running", "&after=tri")
        ],
        "get_workflow": [Sent("GET", f"{each}?{query}") for each in workflows for query in wanted],
        "start_workflow": [
            Sent("POST", f"{each}?{query}", b"{}", JSON) for each in workflows for query in (*wanted, f"{mine}&wait=1")
        ],
        "cancel_workflow": [
            Sent("POST", f"{each}/cancel?{query}", b"{}", JSON) for each in workflows for query in wanted
        ],
        "signal_workflow": [
            Sent("POST", f"{each}/signals/approve?{query}", b"{}", JSON) for each in workflows for query in wanted
        ],
        "query_workflow": [Sent("GET", f"{each}/queries/stage?{query}") for each in workflows for query in wanted],
        "forget_workflow": [Sent("DELETE", f"{each}?{query}") for each in workflows for query in wanted],
        "list_promises": [
            Sent("GET", f"/api/v1/promises?{query}{more}")
            for query in wanted
            for more in ("", "&resolved=false", "&after=p")
        ],
        "get_promise": [Sent("GET", f"{each}?{query}") for each in promises for query in wanted],
        "resolve_promise": [Sent("POST", f"{each}?{query}", b'"mine"', JSON) for each in promises for query in wanted],
        "clear_stream": [Sent("DELETE", stream) for stream in streams],
        "healthz": [Sent("GET", "/healthz?tenant=acme"), Sent("GET", "/healthz")],
        "readyz": [Sent("GET", "/readyz")],
        "metrics": [Sent("GET", "/metrics")],
        "openapi": [Sent("GET", "/openapi.json")],
        # What ends something of the stranger's own comes last.
        "restart_actor": [Sent("POST", f"{actor}{key}/restart") for actor in actors for key in about],
        "delete_actor": [
            Sent("DELETE", f"{actor}{query}") for actor in actors for query in ("?kill=true", "", "?tenant=acme")
        ],
        "delete_actor_by_key": [Sent("DELETE", f"{actor}/acme") for actor in actors],
        "undeploy_application": [Sent("DELETE", f"/api/v1/applications/{name}") for name in applications],
        "undeploy": [
            Sent("DELETE", f"/api/v1/deployments/{place}/{type_}")
            for place in places
            for type_ in ("victim", "extra", "acme%2Fdefault%2Fvictim", "nobody")
        ],
    }


# -- what comes back ---------------------------------------------------------------------------------------

# Ids are by chance, and say nothing of whose they are, nor how many there are.
_IDS = re.compile(r"\b([a-z]+)-[0-9a-f]{20}\b|\b(message|tuple|(?:channel|tuple)-subscription)-[0-9]+\b")
_TIMES = re.compile(r"\b1[0-9]{12}\b")
_MEASURED = re.compile(r'("(?:cpu_ms|uptime_s)":)[0-9.e-]+')


def normalised(text: str, loot: Loot) -> str:
    """Without what differs from one time, one id and one stranger of the same kind to the next."""
    for each in fields(Loot):
        text = text.replace(getattr(loot, each.name), f"<{each.name}>")
    text = re.sub(r"\b(bob|annex)-[12]\b", r"\1", text)
    text = _IDS.sub(lambda found: f"<{found[1] or found[2]}>", text)
    return _MEASURED.sub(r"\1#", _TIMES.sub("<time>", text))


@dataclass
class Rows:
    """What a stranger got, by row; and what it did to the owner."""

    answers: dict[str, list[str]] = field(default_factory=dict)
    harm: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class House:
    """A node with its edge."""

    bed: TestBed
    wasm: Path
    port: int
    authority: LocalAuthority
    asked: list[asyncio.Task[Any]] = field(default_factory=list)

    # -- calls --------------------------------------------------------------------------------------------

    async def call(self, address: Address, function: str, *arguments: Any) -> Any:
        """A host function's answer to an actor: `{"value": ...}` or `{"error": ...}`."""
        interface, name = (part.replace("-", "_") for part in function.split("."))
        return await self.bed.ask(address, "call", interface=interface, function=name, arguments=list(arguments))

    async def value(self, address: Address, function: str, *arguments: Any) -> Any:
        answer = await self.call(address, function, *arguments)
        assert "value" in answer, (function, answer)
        return answer["value"]

    async def attempt(self, address: Address, function: str, arguments: list[Any]) -> str:
        """The same as text, refusals and crashes included."""
        began = asyncio.get_running_loop().time()
        try:
            answer = await self.call(address, function, *arguments)
        except PlexSpacesError as error:
            answer = {"raised": error.code, "message": error.message, "details": error.details}
        waited_ms = (asyncio.get_running_loop().time() - began) * 1_000
        if function in VARIES:
            return type(answer["value"]).__name__
        # Whoever is to wait for nothing waits as long as there is nothing.
        too_soon = WAIT_MS in arguments and answer.get("value", 0) is None and waited_ms < WAIT_MS - 2
        return json.dumps(answer, sort_keys=True) + (" too soon" if too_soon else "")

    # -- requests -----------------------------------------------------------------------------------------

    async def http(self, sent: Sent, token: str) -> str:
        """Status, headers and body, as text; of a live stream, what comes at once."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        token = token if sent.token is None else sent.token
        lines = [
            f"{sent.method} {sent.target} HTTP/1.1",
            "host: localhost",
            "connection: close",
            *([f"content-length: {len(sent.body)}"] if sent.body or sent.method in ("POST", "PUT", "PATCH") else []),
            *([f"authorization: Bearer {token}"] if token else []),
            *(f"{name}: {value}" for name, value in sent.headers),
        ]
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + sent.body)
            live = "live=true" in sent.target
            answer = await _what_comes(reader) if live else await asyncio.wait_for(reader.read(), 60)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *headers = head.decode("latin-1").split("\r\n")
        # How long a body with ids is differs from time to time; without a body the length is all there is to see.
        told = ("date:", f"content-length: {len(body)}") if body else ("date:",)
        kept = sorted(header for header in headers if not header.lower().startswith(told))
        text = body.decode("utf-8", "replace")
        if live and status.endswith("200 OK"):
            kept = [header for header in kept if header.lower().startswith("content-type")]
            text = "\n".join(re.findall(r"^(?:id|event|data): .*$", text, re.MULTILINE))
        if sent.target == "/metrics":
            # Figures of the whole node: which there are, and by what they are told apart.
            series = {re.sub(r'((?:operation|status|le)=)"[^"]*"', r"\1", line) for line in text.splitlines()}
            text = "\n".join(sorted({re.sub(r" [0-9.e+-]+$", "", line) for line in series}))
        return "\n".join([status, *kept, "", text])

    # -- the owner ----------------------------------------------------------------------------------------

    async def actor(self, scope: Scope, name: str, *keys: str) -> Address:
        """Deploy a prober under a name, and start others of it under keys."""
        if self.bed.node.deployment(scope, name) is None:
            # Nothing is to be refused for want of a capability: it has to be refused for being another's.
            await self.bed.deploy(name, self.wasm, scope=scope, capabilities=["*"])
        for key in keys:
            await self.bed.node.spawn(Address(scope, name, key))
        return Address(scope, name)

    def later(self, address: Address, function: str, *arguments: Any) -> asyncio.Task[Any]:
        """A call that is to suspend its actor for long."""
        name = function.replace("-", "_").split(".")
        payload = json.dumps({"interface": name[0], "function": name[1], "arguments": list(arguments)})
        task = asyncio.ensure_future(self.bed.node.ask(address, "call", payload, timeout_s=3_600))
        self.asked.append(task)
        return task

    async def told(self, address: Address) -> str:
        """What an actor has been told by others."""
        return json.dumps(await self.bed.ask(address, "told"), sort_keys=True)

    async def owner(self, method: str, target: str, body: bytes = b"", headers: Any = JSON) -> str:
        """What the owner gets for a request: the body."""
        # Called as the strangers are: a subject is a tenant's own.
        token = self.authority.mint(OWNER.tenant, "eve", ["admin"], 3_600)
        answer = await self.http(Sent(method, target, body, headers), token)
        assert answer.startswith("HTTP/1.1 2"), answer
        return answer.partition("\n\n")[2]

    async def schedule(self) -> str:
        """An append a day from now on; its id."""
        body = json.dumps({"path": "/log", "event_type": "tick", "payload": CANARY, "every_s": 86_400}).encode()
        return str(json.loads(await self.owner("POST", "/api/v1/schedules", body))["id"])

    async def deploy_shop(self) -> None:
        """An application, and a message with an idempotency key."""
        config = (APPLICATION + LINK).format(name="shop", namespace=OWNER.namespace).encode()
        await self.owner("POST", "/api/v1/applications", form({"config": config, "code": self.wasm.read_bytes()}), FORM)
        await self.owner("POST", "/api/v1/actors/acme/default/victim?wait=5", b'{"op": "note"}', KEYED)

    async def settle(self, scope: Scope) -> None:
        """Wait until nobody in a scope has anything to do."""
        node = self.bed.node
        await self.bed.until(
            lambda: all(
                not info.mailbox_messages and info.state in ("idle", "waiting")
                for info in node.actors(scope.tenant, scope.namespace)
            )
        )

    async def dump(self) -> dict[str, Any]:
        """All that the owner has, as far as it is stored, seen from outside, or seen by one of its actors."""
        node, tenant, namespace = self.bed.node, OWNER.tenant, OWNER.namespace
        await node.stores.flushed()
        witness = Address(OWNER, "witness")
        seen = {
            "crew": await self.call(witness, "process-groups.members", "crew"),
            "found": await self.call(
                witness,
                "registry.find",
                record("Query", actor_type="", capability="", label="", limit=0),
            ),
            "depths": [await self.call(witness, "channels.depth", name) for name in ("orders", "backlog", "pushed")],
            "locked": await self.call(witness, "locks.acquire", "gate", 1_000, 0),
        }
        return {
            **self._tables(),
            **seen,
            "actors": [info for info in node.actors(tenant, namespace) if info.address != witness],
            "applications": node.applications(tenant, namespace),
            "deployments": node.deployments(tenant, namespace),
            # Without the witness's own messages.
            "tree": re.sub(r"messages_handled=\d+", "", repr(node.tree(tenant, namespace))),
            # Where its own work runs is a matter of how busy the machine is.
            "said": [
                event
                for event in self.bed.seen
                if _scope_of(event) == OWNER and not isinstance(event, FiberOffloaded)
            ],
        }

    def _tables(self) -> dict[str, Any]:
        """The owner's rows of every table, and the files that they name."""
        found: dict[str, Any] = {}
        folder = self.bed.node.config.data_dir
        file = folder / FILE
        with closing(sqlite3.connect(file)) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
                if table in _NOBODYS:
                    continue
                whose = (OWNER.tenant, OWNER.namespace)
                if "durable" in columns:
                    ours = "durable IN (SELECT id FROM durable WHERE tenant = ? AND namespace = ?)"
                else:
                    assert "tenant" in columns, f"whose are the rows of {table}?"
                    ours = "tenant = ? AND namespace = ?" if "namespace" in columns else "tenant = ? AND ? <> ''"
                rows = database.execute(f"SELECT * FROM {table} WHERE {ours}", whose)
                found[table] = rows.fetchall()
            query = "SELECT file FROM blobs WHERE tenant = ? AND namespace = ?"
            names = [name for (name,) in database.execute(query, whose)]
        found["files"] = {
            path.name: path.read_bytes() for path in sorted((folder / "blobs").rglob("*")) if path.name in names
        }
        return found


# Tables that hold no rows of anybody's.
_NOBODYS = {"written", "sqlite_sequence", "sqlite_stat1"}


def _scope_of(event: Event) -> Scope | None:
    """Of whom an event tells."""
    for each in fields(event):
        value = getattr(event, each.name)
        if isinstance(value, Scope):
            return value
        if isinstance(value, Address):
            return value.scope
    return None


async def _what_comes(reader: asyncio.StreamReader) -> bytes:
    """Until nothing has come for a moment."""
    received = b""
    with contextlib.suppress(TimeoutError):
        while piece := await asyncio.wait_for(reader.read(65_536), 0.05):
            received += piece
    return received


# -- the matrix --------------------------------------------------------------------------------------------


def strangers(turn: int, authority: LocalAuthority) -> dict[str, Stranger]:
    """Another tenant, and another namespace of the owner's tenant; new ones each turn, with names of one length."""
    other = Scope(f"bob-{turn}", "default")
    beside = Scope(OWNER.tenant, f"annex-{turn}")
    return {
        "tenant": Stranger(other, "shop", authority.mint(other.tenant, "eve", ["admin"], 3_600)),
        "namespace": Stranger(
            beside,
            beside.namespace,
            authority.mint(beside.tenant, "eve", ["admin"], 3_600, namespaces=[beside.namespace]),
        ),
    }


def forged_tokens(stranger: Stranger) -> list[str]:
    """None, one of somebody else's key, the stranger's with the owner's claims, and one that is not signed."""
    owners = LocalAuthority(b"x" * 32, SystemClock()).mint(OWNER.tenant, "ada", ["admin"], 3_600)
    head, _, signature = stranger.token.split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    claims = owners.split(".")[1]
    return ["", owners, f"{head}.{claims}.{signature}", f"{unsigned}.{claims}."]


async def visit(house: House, stranger: Stranger, loot: Loot, *, watched: bool) -> Rows:
    """Make every call and send every request of the matrix.

    Args:
        watched: look after each row whether the owner has what it had.
    """
    rows, scope = Rows(), stranger.scope
    caller = await house.actor(scope, "prober")
    before = await house.dump() if watched else {}

    async def row(name: str, attempts: list[Callable[[], Awaitable[str]]]) -> None:
        nonlocal before
        rows.answers.setdefault(name, []).extend([normalised(await attempt(), loot) for attempt in attempts])
        await house.settle(scope)
        if watched:
            after = await house.dump()
            changed = [f"{part}: {before[part]} -> {after[part]}" for part in before if before[part] != after[part]]
            rows.harm.setdefault(name, []).extend(changed)
            before = after

    # Twice: once where the stranger has nothing either, once where it has things of the same names.
    for function, each in [*calls(loot).items()] * 2:
        await row(function, [partial(house.attempt, caller, function, arguments) for arguments in each])
    await row("told", [lambda: house.told(caller)])
    for operation, sent in requests(stranger, loot, house.wasm.read_bytes()).items():
        first = sent[0]
        more = [replace(first, headers=first.headers + FORGED_HEADERS)]
        more += [replace(first, body=first.body[:1_000], token=token) for token in forged_tokens(stranger)]
        await row(operation, [partial(house.http, each, stranger.token) for each in (*sent, *more)])
    return rows


async def furnish(house: House) -> Loot:
    """Give the owner something of everything."""
    main = await house.actor(OWNER, "prober", "kept")
    victim = await house.actor(OWNER, "victim", "acme")
    waiter = await house.actor(OWNER, "waiter", "channel", "tuple", "lock")
    listener = await house.actor(OWNER, "listener")
    await house.actor(OWNER, "witness")
    value, canary = house.value, f'"{CANARY}"'
    await value(victim, "registry.set-label", "team", "red")
    for member in (main, victim, Address(OWNER, "victim", "acme")):
        await value(member, "process-groups.join", "crew")
    await value(main, "keyvalue.put", "plan", canary, None)
    await value(main, "keyvalue.put", "fleeting", canary, DAY_MS)
    await value(main, "keyvalue.increment", "count", 41)
    await value(main, "tuplespace.write", f'["job", 1, {canary}]', None)
    plain = record("SendOptions", delay_ms=0, ttl_ms=0, dedup_id="")
    once = record("SendOptions", delay_ms=0, ttl_ms=0, dedup_id="once")
    for channel, options in [("orders", plain), ("orders", once), ("orders", plain), ("backlog", plain)]:
        await value(main, "channels.send", channel, "order", canary, options)
    leased = await value(main, "channels.receive", "orders", 0, HOUR_MS)
    await value(main, "channels.send", "failed", "order", canary, plain)
    dead = await value(main, "channels.receive", "failed", 0, HOUR_MS)
    await value(main, "channels.nack", "failed", dead["id"], False, 0)
    lease = await value(main, "locks.acquire", "gate", DAY_MS, 0)
    await value(main, "blobs.put", "report", base64.b64encode(CANARY.encode()).decode(), "text/plain")
    for key in ("", "once"):
        await value(main, "streams.append", "/log", "note", canary, key)
    timer = await value(main, "timers.send-after", HOUR_MS, "note", "{}")
    await value(main, "timers.send-interval", HOUR_MS, "note", "{}")
    await value(main, "lifecycle.link", "victim/acme")
    loot = Loot(
        message=leased["id"],
        dead_letter=dead["id"],
        lock=lease["lock_id"],
        timer=timer,
        monitor=await value(main, "lifecycle.monitor", "victim"),
        channel_subscription=await value(listener, "channels.subscribe", "pushed", "note"),
        tuple_subscription=await value(listener, "tuplespace.subscribe", '["fed", null]', "note"),
        stream_subscription=await value(listener, "streams.subscribe", "/quiet", 0, "note"),
        schedule=await house.schedule(),
        promise=await value(main, "workflow.promise-create", CANARY),
    )
    runs = house.bed.node.stores.workflows
    for key in ("lisbon", "default"):
        trip = Address(OWNER, "trip", key)
        runs.begin(trip, f"m-{CANARY}", f'{{"city": {canary}}}')
        runs.signal(trip, f"s-{CANARY}", "approve", f'{{"by": {canary}}}', "", "")
    await house.owner("PUT", "/api/v1/secrets/bank", json.dumps({"value": CANARY}).encode())
    await house.deploy_shop()
    await value(main, "http.register-credential", "phantom-acme", f"{CANARY}-too", ["bank"])
    pending = house.bed.node.ask(main, "defer", "{}", timeout_s=3_600, message_id=loot.asked)
    house.asked.append(asyncio.ensure_future(pending))
    house.later(Address(OWNER, waiter.type, "channel"), "channels.receive", "awaited", HOUR_MS, HOUR_MS)
    house.later(Address(OWNER, waiter.type, "tuple"), "tuplespace.take", '["awaited", null]', HOUR_MS)
    house.later(Address(OWNER, waiter.type, "lock"), "locks.acquire", "gate", DAY_MS, HOUR_MS)
    await house.bed.until(lambda: sum(info.state == "waiting" for info in house.bed.node.actors(OWNER.tenant)) == 3)
    await house.settle(OWNER)
    return loot


@dataclass
class World:
    """A node that strangers have visited twice: where the owner had nothing, and where it has everything."""

    house: House
    loot: Loot
    reference: dict[str, Rows]
    found: dict[str, Rows]


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="world")
async def _world(guest: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("matrix")
    limits = {"stream_events_per_second_max": 1_000_000, "wall_s_per_message_max": 3_600.0}
    async with running(folder, **limits) as bed:
        node = bed.node
        authority = LocalAuthority(b"k" * 32, node.clock)
        server = HttpServer(
            node,
            Authenticator(authority, None, clock=node.clock),
            HttpConfig(port=0),
            facet_types=node.facet_types,
            stores=node.stores,
        )
        await server.start()
        house = House(bed, guest("prober"), server.port, authority)
        try:
            reference = {
                kind: await visit(house, stranger, Loot(), watched=False)
                for kind, stranger in strangers(1, authority).items()
            }
            loot = await furnish(house)
            found = {
                kind: await visit(house, stranger, loot, watched=True)
                for kind, stranger in strangers(2, authority).items()
            }
            yield World(house, loot, reference, found)
        finally:
            for task in house.asked:
                task.cancel()
            await asyncio.gather(*house.asked, return_exceptions=True)
            await server.stop(1.0)


def test_every_function_and_every_route_has_its_row() -> None:
    """Whoever adds one says here what a stranger may try with it."""
    assert sorted(calls(Loot())) == sorted(FUNCTIONS)
    nobody = Stranger(Scope("bob", "default"), "shop", "")
    assert sorted(requests(nobody, Loot(), b"")) == sorted(OPERATIONS)


@on_the_modules_loop
@pytest.mark.parametrize("kind", ["tenant", "namespace"])
@pytest.mark.parametrize("row", [*FUNCTIONS, "told", *OPERATIONS])
async def test_a_stranger_cannot_tell_that_there_is_an_owner(world: World, row: str, kind: str) -> None:
    expected, got = world.reference[kind].answers[row], world.found[kind].answers[row]
    assert got == expected
    assert not any(CANARY in answer for answer in got)
    assert not any("too soon" in answer for answer in got)


@on_the_modules_loop
@pytest.mark.parametrize("kind", ["tenant", "namespace"])
@pytest.mark.parametrize("row", [*FUNCTIONS, "told", *OPERATIONS])
async def test_a_stranger_changes_and_wakes_nothing_of_the_owners(world: World, row: str, kind: str) -> None:
    assert world.found[kind].harm[row] == []


@on_the_modules_loop
@pytest.mark.parametrize("kind", ["tenant", "namespace"])
async def test_a_stranger_that_waits_hears_nothing_of_what_the_owner_does(world: World, kind: str) -> None:
    house, main, wait_ms = world.house, Address(OWNER, "prober"), 500
    stranger = strangers(3, house.authority)[kind]
    # What each of the stranger's actors waits for, what one is subscribed to, and what the owner does meanwhile.
    waits: dict[str, tuple[str, list[Any]]] = {
        "channel": ("channels.receive", ["hall", wait_ms, HOUR_MS]),
        "read": ("tuplespace.read", ['["hall", null]', wait_ms]),
        "take": ("tuplespace.take", ['["hall", null]', wait_ms]),
        "lock": ("locks.acquire", ["hall", DAY_MS, wait_ms]),
    }
    subscribed: list[tuple[str, list[Any]]] = [
        ("process-groups.join", ["hall"]),
        ("channels.subscribe", ["pushed hall", "note"]),
        ("tuplespace.subscribe", ['["fed hall", null]', "note"]),
        ("streams.subscribe", ["/hall", 0, "note"]),
    ]
    caller = await house.actor(stranger.scope, "prober", *waits)
    assert await house.value(caller, "locks.acquire", "hall", DAY_MS, 0)
    lock = (await house.value(main, "locks.acquire", "hall", DAY_MS, 0))["lock_id"]
    done: list[tuple[str, list[Any]]] = [
        ("channels.send", ["hall", "order", '"the owner\'s"', _plain()]),
        ("channels.send", ["pushed hall", "order", '"the owner\'s"', _plain()]),
        ("tuplespace.write", ['["hall", "the owner\'s"]', None]),
        ("tuplespace.write", ['["fed hall", "the owner\'s"]', None]),
        ("streams.append", ["/hall", "note", '"the owner\'s"', ""]),
        ("process-groups.broadcast", ["hall", "note", "{}"]),
        ("locks.release", ["hall", lock]),
    ]
    for function, arguments in subscribed:
        await house.value(caller, function, *arguments)
    began = asyncio.get_running_loop().time()
    waiting = [
        house.later(Address(stranger.scope, "prober", key), function, *arguments)
        for key, (function, arguments) in waits.items()
    ]
    live = Sent("GET", f"/api/v1/streams/hall?namespace={stranger.scope.namespace}&live=true")
    following = asyncio.ensure_future(house.http(live, stranger.token))
    for function, arguments in done:
        await house.value(main, function, *arguments)
    assert [json.loads(each) for each in await asyncio.gather(*waiting)] == [{"value": None}] * len(waits)
    assert asyncio.get_running_loop().time() - began >= (wait_ms - 2) / 1_000
    assert "data: " not in await following
    await house.settle(stranger.scope)
    assert json.loads(await house.told(caller)) == []


@on_the_modules_loop
async def test_the_owner_finds_by_the_same_calls_what_no_stranger_found(world: World) -> None:
    house, main = world.house, Address(OWNER, "prober")
    found = {
        "keyvalue": await house.value(main, "keyvalue.get", "plan"),
        "tuplespace": await house.value(main, "tuplespace.read-all", "[null, null, null]", 0),
        "channels": await house.value(main, "channels.receive", "orders", 0, HOUR_MS),
        "blobs": base64.b64decode(await house.value(main, "blobs.get", "report")).decode(),
        "streams": await house.value(main, "streams.read", "/log", 0, 0),
        "GET blob": await house.owner("GET", "/api/v1/blobs/default/report"),
        "GET stream": await house.owner("GET", "/api/v1/streams/log"),
        "GET dead letters": await house.owner("GET", "/api/v1/dead-letters"),
    }
    assert [name for name, text in found.items() if CANARY not in str(text)] == []
    assert await house.value(main, "process-groups.members", "crew") == ["prober", "victim", "victim/acme"]
    named = record("Query", actor_type="", capability="", label="team=red", limit=0)
    assert [entry["actor_id"] for entry in await house.value(main, "registry.find", named)] == ["victim"]
    assert await house.value(main, "keyvalue.increment", "count", 1) == 42
    listed = {name: await house.owner("GET", f"/api/v1/{name}") for name in ("schedules", "applications", "tree")}
    assert world.loot.schedule in listed["schedules"]
    assert all("shop" in listed[name] for name in ("applications", "tree"))


@on_the_modules_loop
async def test_what_the_owner_began_goes_on_as_if_nobody_had_been_there(world: World) -> None:
    house, loot, main = world.house, world.loot, Address(OWNER, "prober")
    asked, channel, tuple_, lock = waiting = house.asked[:4]
    assert not any(task.done() for task in waiting)
    await house.value(main, "channels.send", "awaited", "order", '"at last"', _plain())
    assert json.loads(await channel)["value"]["payload"] == '"at last"'
    await house.value(main, "tuplespace.write", '["awaited", 1]', None)
    assert json.loads(json.loads(await tuple_)["value"]) == ["awaited", 1]
    renewed = await house.value(main, "locks.renew", "gate", loot.lock, DAY_MS)
    assert await house.value(main, "locks.release", "gate", loot.lock) is True
    assert json.loads(await lock)["value"]["fencing_token"] == renewed["fencing_token"] + 1
    await house.value(main, "messaging.reply", loot.asked, '"at last"')
    assert json.loads(await asked) == "at last"
    await house.value(main, "channels.extend", "orders", loot.message, HOUR_MS)
    await house.value(main, "channels.ack", "orders", loot.message)
    assert await house.value(main, "timers.cancel", loot.timer) is True
    await house.owner("POST", f"/api/v1/dead-letters/{loot.dead_letter}/retry")
    assert CANARY in (await house.value(main, "channels.receive", "failed", 0, HOUR_MS))["payload"]
    # Subscribed still, once each, and to nobody else's.
    await house.value(main, "channels.send", "pushed", "order", '"own"', _plain())
    await house.value(main, "tuplespace.write", '["fed", "own"]', None)
    await house.value(main, "streams.append", "/quiet", "note", '"own"', "")
    listener = Address(OWNER, "listener")
    await house.bed.until(lambda: house.bed.node.info(listener).messages_handled >= _SUBSCRIBED + 3)
    await house.settle(OWNER)
    told = json.loads(await house.told(listener))
    assert len(told) == 3
    assert str(told).count("own") == 3
    # Linked and watched still.
    await house.bed.node.stop_actor(Address(OWNER, "victim"), kill=True)
    await house.bed.node.stop_actor(Address(OWNER, "victim", "acme"), kill=True)
    await house.settle(OWNER)
    signals = [(op, payload["actor_id"]) for op, payload in json.loads(await house.told(main)) if op != "note"]
    assert sorted(signals) == [("DOWN", "victim"), ("EXIT", "victim/acme")]


# How many messages the listener has handled before anything comes by its subscriptions.
_SUBSCRIBED = 3


def _plain() -> dict[str, object]:
    return record("SendOptions", delay_ms=0, ttl_ms=0, dedup_id="")
