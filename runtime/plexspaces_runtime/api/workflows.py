"""Workflows and promises over HTTP: list, show, start, signal, query, cancel, forget; and what somebody waits for."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ..actors.envelope import Kind
from ..errors import InvalidArgument, Unavailable
from ..scope import Address, Scope, check_name
from ..stores.promises import LIST_MAX as PROMISES_LIST_MAX
from ..stores.promises import Promise
from ..stores.workflows import LIST_MAX, REASON_CHARS_MAX, Status, WorkflowRun
from .config import HttpConfig
from .faults import Response
from .incoming import JSON, NO_STORE, Request, whole
from .ports import NodePort, StorePort
from .requests import check_content_type, parse_query_message, parse_traceparent, parse_wait

_LIMIT: Final = 100
# A page is made in memory, and an outcome may be large.
_PAGE_BYTES_MAX: Final = 4 * 1024 * 1024


class WorkflowRoutes:
    """The handlers of the routes below /api/v1/workflows and /api/v1/promises.

    Args:
        stores: None for a node that keeps none.
    """

    def __init__(self, node: NodePort, stores: StorePort | None, config: HttpConfig) -> None:
        self._node = node
        self._stores = stores
        self._config = config

    # -- runs ---------------------------------------------------------------------------------------------

    async def list_workflows(self, request: Request) -> Response:
        """GET /api/v1/workflows"""
        arguments = request.arguments("namespace", "type", "status", "after", "limit")
        scope, stores = _scope(request, arguments), self._kept()
        limit = whole("limit", arguments.get("limit", str(_LIMIT)), LIST_MAX)
        actor_type = arguments.get("type")
        if actor_type is not None:
            check_name("actor type", actor_type)
        wanted = _status(arguments["status"]) if "status" in arguments else None
        after = arguments.get("after", "")
        found = stores.workflows.page(scope, actor_type=actor_type, status=wanted, after=after, limit=limit)
        texts = _page([self._run_json(run) for run in found])
        body = b'{"workflows":[' + b",".join(texts) + b"]"
        if texts:
            last = found[len(texts) - 1].address.text
            if stores.workflows.page(scope, actor_type=actor_type, status=wanted, after=last, limit=1):
                body += b',"next":' + orjson.dumps(last)
        await stores.flushed()
        return Response(200, [JSON, NO_STORE], body + b"}")

    async def get_workflow(self, request: Request) -> Response:
        """GET /api/v1/workflows/{type}/{key}"""
        return await self._show(self._address(request), 200)

    async def start_workflow(self, request: Request) -> Response:
        """POST /api/v1/workflows/{type}/{key}"""
        address = self._address(request, "wait")
        wait_s = parse_wait(
            {name: value for name, value in request.arguments("namespace", "wait").items() if name == "wait"},
            request.headers.get(b"prefer"),
            self._config.wait_s_max,
        )
        payload = await self._object(request)
        trace = parse_traceparent(request.headers.get(b"traceparent"))
        caller = request.principal.caller
        if wait_s is None:
            await self._node.tell(address, "run", payload, caller=caller, trace=trace, kind=Kind.RUN)
            return await self._show(address, 202)
        reply = await self._node.ask(
            address, "run", payload, caller=caller, timeout_s=wait_s, trace=trace, kind=Kind.RUN
        )
        return Response(200, [JSON, NO_STORE], reply.encode() or b"null")

    async def cancel_workflow(self, request: Request) -> Response:
        """POST /api/v1/workflows/{type}/{key}/cancel"""
        address = self._address(request)
        body = orjson.loads(await self._object(request))
        unknown = [name for name in body if name != "reason"]
        reason = body.get("reason", "")
        if unknown or not isinstance(reason, str) or len(reason) > REASON_CHARS_MAX:
            raise InvalidArgument(
                f'the body is {{"reason": TEXT}}, of at most {REASON_CHARS_MAX} characters, or nothing'
            )
        who = request.principal.subject
        self._kept().workflows.cancel(address, reason or f"cancelled by {who}")
        return await self._show(address, 202)

    async def forget_workflow(self, request: Request) -> Response:
        """DELETE /api/v1/workflows/{type}/{key}"""
        address, stores = self._address(request), self._kept()
        stores.workflows.forget(address)
        await stores.flushed()
        return Response(204, [NO_STORE])

    async def signal_workflow(self, request: Request) -> Response:
        """POST /api/v1/workflows/{type}/{key}/signals/{name}"""
        address = self._address(request)
        payload = await self._object(request)
        trace = parse_traceparent(request.headers.get(b"traceparent"))
        message_id = await self._node.tell(
            address,
            _operation(request.parameters["name"]),
            payload,
            caller=request.principal.caller,
            trace=trace,
            kind=Kind.SIGNAL,
        )
        await self._kept().flushed()
        return Response(202, [JSON, NO_STORE], orjson.dumps({"message_id": message_id}))

    async def query_workflow(self, request: Request) -> Response:
        """GET /api/v1/workflows/{type}/{key}/queries/{name}"""
        name = _operation(request.parameters["name"])
        arguments = orjson.loads(parse_query_message(request.query)[1])
        namespace = arguments.pop("namespace", "default")
        if not isinstance(namespace, str):
            raise InvalidArgument("namespace is a name")
        scope = request.principal.scope(request.principal.tenant, check_name("namespace", namespace))
        wait_s = parse_wait({}, request.headers.get(b"prefer"), self._config.wait_s_max)
        if wait_s is None:
            wait_s = self._node.limits.ask_timeout_ms / 1_000
        try:
            payload = orjson.dumps(arguments).decode()
        except orjson.JSONEncodeError as error:
            # JSON can be read four times as deep as it can be written.
            raise InvalidArgument(f"the arguments cannot be passed on: {error}") from None
        reply = await self._node.ask(
            _parse(scope, request),
            name,
            payload,
            caller=request.principal.caller,
            timeout_s=wait_s,
            trace=parse_traceparent(request.headers.get(b"traceparent")),
            kind=Kind.QUERY,
        )
        return Response(200, [JSON, NO_STORE], reply.encode() or b"null")

    # -- promises -----------------------------------------------------------------------------------------

    async def list_promises(self, request: Request) -> Response:
        """GET /api/v1/promises"""
        arguments = request.arguments("namespace", "resolved", "after", "limit")
        scope, stores = _scope(request, arguments), self._kept()
        limit = whole("limit", arguments.get("limit", str(_LIMIT)), PROMISES_LIST_MAX)
        resolved = arguments.get("resolved")
        if resolved not in (None, "true", "false"):
            raise InvalidArgument("resolved is to be true or false")
        wanted = None if resolved is None else resolved == "true"
        found = stores.promises.page(scope, resolved=wanted, after=arguments.get("after", ""), limit=limit)
        texts = _page([_promise_json(promise) for promise in found])
        body = b'{"promises":[' + b",".join(texts) + b"]"
        if texts and stores.promises.page(scope, resolved=wanted, after=found[len(texts) - 1].id, limit=1):
            body += b',"next":' + orjson.dumps(found[len(texts) - 1].id)
        await stores.flushed()
        return Response(200, [JSON, NO_STORE], body + b"}")

    async def get_promise(self, request: Request) -> Response:
        """GET /api/v1/promises/{id}"""
        scope, stores = _scope(request, request.arguments("namespace")), self._kept()
        promise = stores.promises.get(scope, request.parameters["id"])
        await stores.flushed()
        return Response(200, [JSON, NO_STORE], _promise_json(promise))

    async def resolve_promise(self, request: Request) -> Response:
        """POST /api/v1/promises/{id}"""
        scope, stores = _scope(request, request.arguments("namespace")), self._kept()
        body = await request.body(self._node.limits.payload_bytes_max)
        check_content_type(request.headers.get(b"content-type"), body)
        promise = stores.promises.resolve(scope, request.parameters["id"], _text(body) or "null")
        await stores.flushed()
        return Response(200, [JSON, NO_STORE], _promise_json(promise))

    # -- inside -------------------------------------------------------------------------------------------

    def _kept(self) -> StorePort:
        if self._stores is None:
            raise Unavailable("this node keeps no workflows")
        return self._stores

    def _address(self, request: Request, *more: str) -> Address:
        return _parse(_scope(request, request.arguments("namespace", *more)), request)

    async def _show(self, address: Address, status: int) -> Response:
        stores = self._kept()
        body = self._run_json(stores.workflows.get(address))
        await stores.flushed()
        return Response(status, [JSON, NO_STORE], body)

    async def _object(self, request: Request) -> str:
        """The body: the text of a JSON object; none is an empty one."""
        body = await request.body(self._node.limits.payload_bytes_max)
        check_content_type(request.headers.get(b"content-type"), body)
        text = _text(body) or "{}"
        if not isinstance(orjson.loads(text), dict):
            raise InvalidArgument('the body is to be a JSON object of arguments, such as {"city": "Lisbon"}')
        return text

    def _run_json(self, run: WorkflowRun) -> bytes:
        stores = self._kept()
        address = run.address
        head: dict[str, Any] = {
            "namespace": address.scope.namespace,
            "type": address.type,
            "key": address.key,
            "run_id": run.run_id,
            "status": run.status.value,
            "started_ms": run.started_ms,
            "ended_ms": run.ended_ms,
            "step": run.step,
            "attempt": run.attempt,
            "steps_done": run.steps_done,
            "waits_for": self._node.waits_for(address) if run.running else "",
            "signals_waiting": stores.workflows.waiting(address),
            "cancel_reason": run.cancel,
        }
        # Spliced, not parsed and printed: a number of any length stays what it was.
        parts = [orjson.dumps(head)[:-1], b',"arguments":', run.payload.encode()]
        if not run.running:
            parts += [b',"result":' if run.status is Status.COMPLETED else b',"error":', run.outcome.encode()]
        return b"".join((*parts, b"}"))


def _scope(request: Request, arguments: dict[str, str]) -> Scope:
    namespace = check_name("namespace", arguments.get("namespace", "default"))
    return request.principal.scope(request.principal.tenant, namespace)


def _parse(scope: Scope, request: Request) -> Address:
    return Address.parse(scope, f"{request.parameters['type']}/{request.parameters['key']}")


def _status(text: str) -> Status:
    try:
        return Status(text)
    except ValueError:
        raise InvalidArgument(f"status is to be {' or '.join(each.value for each in Status)}") from None


def _operation(name: str) -> str:
    if not 1 <= len(name) <= 128:
        raise InvalidArgument("the name of a signal or a query has 1 to 128 characters")
    return name


def _text(body: bytes) -> str:
    """A body of JSON as text, "" for none.

    Raises:
        InvalidArgument
    """
    if not body:
        return ""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from None
    return body.decode()


def _page(texts: list[bytes]) -> list[bytes]:
    """As many as a page holds, but at least one."""
    size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if number and size > _PAGE_BYTES_MAX:
            return texts[:number]
    return texts


def _promise_json(promise: Promise) -> bytes:
    head = {
        "id": promise.id,
        "name": promise.name,
        "owner": promise.owner,
        "created_ms": promise.created_ms,
        "resolved": promise.value is not None,
        "resolved_ms": promise.resolved_ms,
    }
    if promise.value is None:
        return orjson.dumps(head)
    return orjson.dumps(head)[:-1] + b',"value":' + promise.value.encode() + b"}"
