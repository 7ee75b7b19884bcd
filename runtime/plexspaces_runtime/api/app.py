"""The ASGI application: a request, its token, the route table, the node; and one way out for every error.

Talking to an actor is what nearly all requests are about, so those skip the table: one look-up finds the address of
a path that was seen before, another the principal of a token that was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, MutableMapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import orjson

from ..actors.info import ActorInfo
from ..config import Limits
from ..deployment import appconfig
from ..deployment.appconfig import AppConfig, FacetTypes
from ..deployment.model import Deployment
from ..deployment.status import ApplicationStatus, TreeNode
from ..errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    NotFound,
    PlexSpacesError,
    RateLimited,
    Unavailable,
)
from ..ids import Ids
from ..scope import Address, Scope, check_name
from .admission import Admission
from .auth import Authenticator, Principal
from .blobs import BlobRoutes
from .chat import ChatRoutes
from .config import HttpConfig
from .deadletters import DeadLetterRoutes
from .eventstreams import StreamRoutes
from .faults import MethodNotAllowed, Overloaded, Response, StreamingResponse, problem
from .grants import GrantRoutes
from .idempotency import NEVER_DONE, Idempotency, IdempotencyId, IdempotencyStore
from .incoming import JSON, NO_STORE, ClientGone, Receive, Request, body_too_large, json_response, visible, whole
from .journals import JournalRoutes
from .links import LinkRoutes
from .metrics import CONTENT_TYPE, HttpMetrics
from .openapi import document
from .permissions import Permission
from .ports import NodePort, StorePort
from .requests import (
    ActorPath,
    check_content_type,
    decode_path,
    parse_actor_path,
    parse_idempotency_key,
    parse_message,
    parse_query_message,
    parse_traceparent,
    parse_wait,
)
from .routes import ROUTES, Route
from .secrets import SecretRoutes
from .uploads import FormShape, Upload
from .workflows import WorkflowRoutes

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = logging.getLogger("plexspaces.http")
_ACTORS = b"/api/v1/actors/"
_REMEMBERED_MAX = 8192
_REMEMBERED_BYTES_MAX = 256
_ACTOR_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
_INFO_METHODS = ("GET", "HEAD", "OPTIONS")
_RESTART_METHODS = ("POST", "OPTIONS")
_DEPLOY_FIELDS = ("namespace", "actor_type", "config", "check")


Handler = Callable[[Request], Awaitable[Response | StreamingResponse]]


class Api:
    """The edge of one node.

    Args:
        node: what does the work.
        authenticator: whose tokens are believed.
        config: limits.
        idempotency: where the answers to requests with a key are recorded; in `stores` if None.
        facet_types: the facets that applications may name, see `appconfig.parse`.
        stores: event streams, blobs and dead letters; None for a node that keeps none.
    """

    def __init__(
        self,
        node: NodePort,
        authenticator: Authenticator,
        config: HttpConfig | None = None,
        *,
        idempotency: IdempotencyStore | None = None,
        facet_types: FacetTypes | None = None,
        stores: StorePort | None = None,
    ) -> None:
        self.config = config = config or HttpConfig()
        # For gRPC, too: what comes in by one door counts at the other.
        self.admission = Admission(node.clock, node.limits, node.quotas)
        self._facet_types = facet_types
        self.draining = False
        self._node = node
        self._authenticator = authenticator
        self._idempotency: IdempotencyStore = idempotency or Idempotency(
            node.clock,
            stores.replies if stores is not None else None,
            stores.flushed if stores is not None else None,
            entries_max=config.idempotency_entries_max,
            bytes_max=config.idempotency_bytes_max,
            reply_bytes_max=config.idempotency_reply_bytes_max,
            retention_s=config.idempotency_retention_s,
        )
        self._in_flight = 0
        self._uploads = 0
        self._streams = StreamRoutes(stores, config, node.limits, node.clock)
        self._blobs = BlobRoutes(stores, config)
        self._dead_letters = DeadLetterRoutes(stores, node.journals)
        self._journals = JournalRoutes(node.journals)
        self._workflows = WorkflowRoutes(node, stores, config)
        self._grants = GrantRoutes(node)
        self._secrets = SecretRoutes(node, stores)
        self._links = LinkRoutes(node)
        self._chat = ChatRoutes(node, stores, config)
        self._metrics = HttpMetrics(node.counters, lambda: self._in_flight)
        self._openapi = orjson.dumps(document())
        # Paths seen before.  What is parsed is a claim: each request still has to confirm it with its token.
        self._paths: dict[bytes, ActorPath] = {}
        # The same few queries and preferences say how long to wait.
        self._waits: dict[tuple[bytes, bytes | None], float | None] = {}
        self._table = [
            (tuple(route.path.split("/")), route, self._handler(route.operation))
            for route in ROUTES
            if not route.path.startswith(_ACTORS.decode())
        ]

    @property
    def limits(self) -> Limits:
        """The node's."""
        return self._node.limits

    @property
    def ids(self) -> Ids:
        """The node's."""
        return self._node.ids

    def drain(self) -> None:
        """Begin to stop: work is refused, live readers are told to come back."""
        self.draining = True
        self._streams.close()

    def _handler(self, operation: str) -> Handler:
        for routes in (
            self,
            self._streams,
            self._blobs,
            self._dead_letters,
            self._journals,
            self._workflows,
            self._grants,
            self._secrets,
            self._links,
            self._chat,
        ):
            if (found := getattr(routes, operation, None)) is not None:
                handler: Handler = found
                return handler
        raise AssertionError(f"nobody answers {operation}")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI 3, `http` scopes."""
        if scope["type"] != "http":
            raise NotImplementedError(f"this application answers HTTP requests, not {scope['type']!r}")
        answer = await self.answer(scope, receive)
        if answer is None:
            return
        status, headers = answer.status, answer.headers
        if isinstance(answer, StreamingResponse):
            await _send_pieces(answer, send, only_head=scope["method"] == "HEAD")
            return
        body = answer.body
        if status not in (204, 304):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def answer(
        self, scope: MutableMapping[str, Any], receive: Receive
    ) -> Response | StreamingResponse | None:
        """What a request is answered, by whichever door it came; None where the client went away before its end.

        Args:
            scope, receive: as in ASGI 3.
        """
        clock = self._node.clock
        began_ns = clock.monotonic_ns()
        operation = "other"
        self._in_flight += 1
        try:
            request = Request(scope, receive)
            try:
                if self._in_flight > self.config.requests_max:
                    raise Overloaded(f"the node answers {self.config.requests_max} requests at a time: try again later")
                answer: Response | StreamingResponse = await (
                    self._actor(request) if request.path.startswith(_ACTORS) else self._other(request)
                )
            finally:
                operation = request.operation
                if request.admitted is not None:
                    self.admission.leave(request.admitted)
        except PlexSpacesError as error:
            answer = self._problem(error)
        except ClientGone:
            return None
        except Exception as error:  # noqa: BLE001 - the last resort: a client gets an answer, the log the traceback
            answer = self.incident(error)
        finally:
            self._in_flight -= 1
        self._metrics.observe(operation, answer.status, clock.monotonic_ns() - began_ns)
        return answer

    async def _other(self, request: Request) -> Response | StreamingResponse:
        segments = request.path.split(b"/")
        allowed: list[str] = []
        for template, route, handler in self._table:
            parameters = _match(template, segments, rest=route.rest)
            if parameters is None:
                continue
            if route.method in (request.method, "GET" if request.method == "HEAD" else ""):
                return await self._route(request, route, handler, parameters)
            allowed += ["GET", "HEAD"] if route.method == "GET" else [route.method]
        if allowed:
            return _other_method(request.method, [*allowed, "OPTIONS"])
        raise NotFound("there is nothing under this address; /openapi.json lists what there is")

    async def _route(
        self, request: Request, route: Route, handler: Handler, parameters: dict[str, bytes]
    ) -> Response | StreamingResponse:
        request.operation = route.operation
        if not route.public:
            self.must_be_open()
            request.principal = await self._authenticate(request)
            self._admit(request, None)
        request.parameters = {name: decode_path(value) for name, value in parameters.items()}
        if not route.public:
            request.principal.require(route.operation, stream=request.parameters.get("path", ""))
        return await handler(request)

    async def _authenticate(self, request: Request) -> Principal:
        return await self.principal(request.headers.get(b"authorization", b""))

    async def principal(self, header: bytes) -> Principal:
        """Whom an `Authorization` header names.

        Raises:
            Unauthenticated, Unavailable: see `Authenticator.verify`.
        """
        return self._authenticator.known(header) or await self._authenticator.verify(header)

    def _admit(self, request: Request, actor: Address | None) -> None:
        """Count the request among its tenant's and caller's, if it is not one too many."""
        principal = request.principal
        self.admission.enter(principal.tenant, principal.subject, actor)
        request.admitted = principal.tenant

    def must_be_open(self) -> None:
        """Refuse work while the node stops.

        Raises:
            Unavailable
        """
        if self.draining:
            raise Unavailable("the node is stopping: try again in a moment, or at another node")

    # -- actors -------------------------------------------------------------------------------------------

    async def _actor(self, request: Request) -> Response:
        path = self._paths.get(request.path)
        if path is None:
            path = self._parse_path(request.path)
        method = request.method
        is_info = path.about is not None and (path.actor is None or method in ("GET", "HEAD"))
        allowed: tuple[str, ...] = _ACTOR_METHODS
        if path.actor is None:
            allowed = _INFO_METHODS if path.restart is None else _RESTART_METHODS
        if method not in allowed or method == "OPTIONS":
            return _other_method(method, allowed)
        self.must_be_open()
        header = request.headers.get(b"authorization", b"")
        principal = self._authenticator.known(header) or await self._authenticator.verify(header)
        if path.tenant != principal.tenant or principal.namespaces is not None:
            principal.check(path.tenant, path.namespace)
        request.principal = principal
        self._admit(request, None if is_info else path.actor)
        if is_info:
            assert path.about is not None
            request.operation = "get_info"
            principal.require("get_info")
            return self._info(path.about)
        if path.restart is not None:
            request.operation = "restart_actor"
            principal.require("restart_actor")
            return await self._restart(request, path.restart)
        assert path.actor is not None
        if method == "DELETE":
            request.operation = "delete_actor"
            principal.require("delete_actor")
            return await self._delete(request, path.actor)
        request.operation = "post_actor" if method == "POST" else "get_actor"
        if Permission.CALL not in principal.permissions:
            principal.require(request.operation)
        if method == "POST":
            return await self._post(request, path.actor)
        return await self._get(request, path.actor)

    def _parse_path(self, raw: bytes) -> ActorPath:
        path = parse_actor_path(raw[len(_ACTORS) :])
        if path is None:
            raise NotFound("an actor's address is /api/v1/actors/{tenant}/{namespace}/{type}[/{key}][/info]")
        _remember(self._paths, raw, path, len(raw))
        return path

    async def _post(self, request: Request, address: Address) -> Response:
        headers = request.headers
        wishes = request.query, headers.get(b"prefer")
        try:
            wait_s = self._waits[wishes]
        except KeyError:
            wait_s = parse_wait(request.arguments("wait"), wishes[1], self.config.wait_s_max)
            _remember(self._waits, wishes, wait_s, len(wishes[0]) + len(wishes[1] or b""))
        body = await request.body(self._node.limits.payload_bytes_max)
        check_content_type(headers.get(b"content-type"), body)
        op, payload = parse_message(body)
        trace = parse_traceparent(headers.get(b"traceparent"))
        key = headers.get(b"idempotency-key")
        if key is None:
            return await self._deliver(request.principal, address, op, payload, wait_s, trace, "")
        return await self._deliver_once(
            request.principal, address, op, payload, wait_s, trace, parse_idempotency_key(key)
        )

    async def _deliver(
        self,
        principal: Principal,
        address: Address,
        op: str,
        payload: str,
        wait_s: float | None,
        trace: str,
        message_id: str,
    ) -> Response:
        caller = principal.caller
        if wait_s is None:
            message_id = await self._node.tell(address, op, payload, caller=caller, message_id=message_id, trace=trace)
            return Response(202, [JSON, NO_STORE], b'{"message_id":"%b"}' % message_id.encode())
        reply = await self._node.ask(
            address, op, payload, caller=caller, timeout_s=wait_s, message_id=message_id, trace=trace
        )
        return Response(200, [JSON, NO_STORE], reply.encode() or b"null")

    async def _deliver_once(
        self,
        principal: Principal,
        address: Address,
        op: str,
        payload: str,
        wait_s: float | None,
        trace: str,
        key: str,
    ) -> Response:
        # What is secret in it stays out of the record, even as a digest; and the same value makes the same token.
        payload = self._node.veiled(address, op, payload)
        scope = address.scope
        id_ = IdempotencyId(scope.tenant, scope.namespace, principal.subject, key)
        # How long one waits may differ from one attempt to the next; what is asked may not.
        kind = "tell" if wait_s is None else "ask"
        # The same key makes the same message, also in another life of the node: a durable actor recognises it.
        message_id = "k-" + _digest(*id_, "POST", str(address)).hex()
        return await self._once(
            id_,
            _digest(kind, str(address), payload),
            lambda: self._deliver(principal, address, op, payload, wait_s, trace, message_id),
            wait_s,
        )

    async def _once(
        self,
        id_: IdempotencyId,
        fingerprint: bytes,
        work: Callable[[], Awaitable[Response]],
        wait_s: float | None = None,
        *,
        failures_are_kept: bool = True,
    ) -> Response:
        """Do what a request with a key wants, unless it was done before: then that answer.

        Args:
            fingerprint: the same for the same request, and for no other.
            wait_s: how long to wait for one that is under way.
            failures_are_kept: a failure may have done something, so that it is an answer too.
        """
        try:
            async with asyncio.timeout(wait_s or self.config.wait_s_max):
                claim = await self._idempotency.claim(id_, fingerprint)
        except TimeoutError:
            raise DeadlineExceeded(
                "the first request with this Idempotency-Key is still under way: ask again with the same key"
            ) from None
        if isinstance(claim, Response):
            await self._idempotency.settle()
            return Response(claim.status, [*claim.headers, (b"idempotency-replayed", b"true")], claim.body)
        try:
            answer = await work()
        except PlexSpacesError as error:
            answer = self._problem(error)
            if error.code in NEVER_DONE or not failures_are_kept:
                claim.forget(answer)
                return answer
        except asyncio.CancelledError:
            # As if it had died: what a durable actor has begun it finishes, and the same key finds that.
            claim.forget(problem(Cancelled("the node stopped while it waited for the reply")))
            raise
        except Exception as error:  # noqa: BLE001 - whoever waits for the same answer must get one
            answer = self.incident(error)
        claim.keep(answer)
        await self._idempotency.settle()
        return answer

    async def _get(self, request: Request, address: Address) -> Response:
        op, payload = parse_query_message(request.query)
        if len(payload) > self._node.limits.payload_bytes_max:
            raise body_too_large(self._node.limits.payload_bytes_max)
        headers = request.headers
        wait_s = parse_wait({}, headers.get(b"prefer"), self.config.wait_s_max)
        if wait_s is None:
            wait_s = self._node.limits.ask_timeout_ms / 1000
        trace = parse_traceparent(headers.get(b"traceparent"))
        return await self._deliver(request.principal, address, op, payload, wait_s, trace, "")

    async def _delete(self, request: Request, address: Address) -> Response:
        kill = _boolean("kill", request.arguments("kill").get("kill", "false"))
        await self._node.stop_actor(address, kill=kill)
        return Response(204, [NO_STORE])

    async def _restart(self, request: Request, address: Address) -> Response:
        request.arguments()
        await self._node.restart_actor(address)
        return Response(204, [NO_STORE])

    def _info(self, address: Address) -> Response:
        info = self._node.info(address)
        deployment = self._node.deployment(address.scope, address.type)
        handlers = deployment.handlers if deployment is not None else {}
        return json_response(200, {**_actor_json(info), "handlers": dict(handlers)})

    async def list_actors(self, request: Request) -> Response:
        """GET /api/v1/actors"""
        arguments = request.arguments("namespace", "limit", "after")
        limit = whole("limit", arguments.get("limit", str(self.config.list_max)), self.config.list_max)
        after = arguments.get("after", "")
        found = self._node.actors(request.principal.tenant, self._wanted_namespace(request, arguments))
        rows = sorted(
            (
                (f"{info.address.scope.namespace}/{info.address.type}/{info.address.key}", info)
                for info in found
                if visible(request.principal, info.address.scope.namespace)
            ),
            key=lambda row: row[0],
        )
        page = [row for row in rows if row[0] > after]
        content: dict[str, Any] = {"actors": [_actor_json(info) for _, info in page[:limit]]}
        if len(page) > limit:
            content["next"] = page[limit - 1][0]
        return json_response(200, content)

    # -- deployments --------------------------------------------------------------------------------------

    async def deploy(self, request: Request) -> Response:
        """POST /api/v1/deploy"""
        request.arguments()
        bytes_max = self._node.limits.wasm_bytes_max
        shape = FormShape(_DEPLOY_FIELDS, "wasm", file_bytes_max=bytes_max, files_bytes_max=bytes_max)
        async with self._received(request, shape) as upload:
            namespace = upload.required("namespace")
            scope = request.principal.scope(request.principal.tenant, namespace)
            actor_type = check_name("actor type", upload.required("actor_type"))
            text = upload.fields.get("config", "{}")
            config = _config(text)
            if _boolean("check", upload.fields.get("check", "false")):
                report = await self._node.check(scope, actor_type, upload.files["wasm"], config)
                return json_response(200, {"ok": not report.diverged, **asdict(report)})

            async def deploy() -> Response:
                deployment = await self._node.deploy(scope, actor_type, upload.files["wasm"], config)
                location = f"/api/v1/actors/{scope.tenant}/{scope.namespace}/{actor_type}"
                answer = json_response(201, _deployment_json(deployment))
                return Response(201, [*answer.headers, (b"location", location.encode())], answer.body)

            return await self._deploy_once(request, namespace, upload, ("deploy", actor_type, text), deploy)

    async def _deploy_once(
        self,
        request: Request,
        namespace: str,
        upload: Upload,
        what: tuple[str, ...],
        deploy: Callable[[], Awaitable[Response]],
    ) -> Response:
        """Deploy, but with a key only once.  One that failed has changed nothing, and may be tried again."""
        header = request.headers.get(b"idempotency-key")
        if header is None:
            return await deploy()
        principal = request.principal
        id_ = IdempotencyId(principal.tenant, namespace, principal.subject, parse_idempotency_key(header))
        hashes = await asyncio.to_thread(_hashes, upload.files)
        return await self._once(id_, _digest(namespace, *what, *hashes), deploy, failures_are_kept=False)

    @asynccontextmanager
    async def _received(self, request: Request, shape: FormShape) -> AsyncIterator[Upload]:
        """A form, completely received; its files are gone when the block ends."""
        upload = Upload(request.headers.get(b"content-type"), shape, directory=self.config.upload_dir)
        shape.check_length(int(request.headers.get(b"content-length", b"0")))
        if self._uploads >= self.config.uploads_max:
            raise RateLimited(
                f"the node receives {self.config.uploads_max} components at a time: try again later",
                retry_after_ms=2_000,
            )
        self._uploads += 1
        try:
            async with upload:
                await upload.read(request.pieces())
                yield upload
        finally:
            self._uploads -= 1

    async def list_deployments(self, request: Request) -> Response:
        """GET /api/v1/deployments"""
        namespace = self._wanted_namespace(request, request.arguments("namespace"))
        found = self._node.deployments(request.principal.tenant, namespace)
        return json_response(
            200,
            {
                "deployments": [
                    _deployment_json(deployment)
                    for deployment in found
                    if visible(request.principal, deployment.scope.namespace)
                ]
            },
        )

    async def undeploy(self, request: Request) -> Response:
        """DELETE /api/v1/deployments/{namespace}/{type}"""
        request.arguments()
        scope = request.principal.scope(request.principal.tenant, request.parameters["namespace"])
        await self._node.undeploy(scope, check_name("actor type", request.parameters["type"]))
        return Response(204, [NO_STORE])

    # -- applications -------------------------------------------------------------------------------------

    async def deploy_application(self, request: Request) -> Response:
        """POST /api/v1/applications"""
        request.arguments()
        limits, principal = self._node.limits, request.principal
        shape = FormShape(
            ("config",),
            None,
            file_bytes_max=limits.wasm_bytes_max,
            files_bytes_max=self.config.application_bytes_max,
            files_max=self.config.application_components_max,
        )
        async with self._received(request, shape) as upload:
            text = upload.required("config")
            config = await asyncio.to_thread(appconfig.parse, text, limits=limits, facet_types=self._facet_types)
            principal.check(principal.tenant, config.namespace)
            self._check_visible_or_free(principal, config.name)
            _check_components(config, upload.files.keys())

            async def deploy() -> Response:
                status = await self._node.deploy_application(principal.tenant, config, upload.files)
                answer = json_response(201, _application_json(status))
                location = f"/api/v1/applications/{status.name}"
                return Response(201, [*answer.headers, (b"location", location.encode())], answer.body)

            return await self._deploy_once(request, config.namespace, upload, ("application", text), deploy)

    async def list_applications(self, request: Request) -> Response:
        """GET /api/v1/applications"""
        namespace = self._wanted_namespace(request, request.arguments("namespace"))
        found = self._node.applications(request.principal.tenant, namespace)
        return json_response(
            200,
            {
                "applications": [
                    _application_json(status) for status in found if visible(request.principal, status.scope.namespace)
                ]
            },
        )

    async def get_application(self, request: Request) -> Response:
        """GET /api/v1/applications/{name}"""
        request.arguments()
        return json_response(200, _application_json(self._application(request)))

    async def restart_application(self, request: Request) -> Response:
        """POST /api/v1/applications/{name}/restart"""
        request.arguments()
        name = self._application(request).name
        return json_response(
            200, _application_json(await self._node.restart_application(request.principal.tenant, name))
        )

    async def undeploy_application(self, request: Request) -> Response:
        """DELETE /api/v1/applications/{name}"""
        request.arguments()
        await self._node.undeploy_application(request.principal.tenant, self._application(request).name)
        return Response(204, [NO_STORE])

    def _application(self, request: Request) -> ApplicationStatus:
        """The application of the address, if the principal may know of it."""
        name = check_name("application", request.parameters["name"])
        status = self._node.application(request.principal.tenant, name)
        if not visible(request.principal, status.scope.namespace):
            raise NotFound(f"there is no application {name!r}", application=name)
        return status

    def _check_visible_or_free(self, principal: Principal, name: str) -> None:
        """Refuse a name that is taken where the principal may not look, without saying where that is."""
        try:
            status = self._node.application(principal.tenant, name)
        except NotFound:
            return
        if not visible(principal, status.scope.namespace):
            raise Conflict(f"the name {name!r} is taken by another application: choose another", application=name)

    async def tree(self, request: Request) -> Response:
        """GET /api/v1/tree"""
        tenant, namespace = request.principal.tenant, self._wanted_namespace(request, request.arguments("namespace"))
        namespaces = self._node.namespaces(tenant) if namespace is None else [namespace]
        roots = [
            {"namespace": each, **_tree_json(root)}
            for each in namespaces
            if visible(request.principal, each)
            for root in self._node.tree(tenant, each)
        ]
        return json_response(200, {"tree": roots})

    def _wanted_namespace(self, request: Request, arguments: Mapping[str, str]) -> str | None:
        namespace = arguments.get("namespace")
        if namespace is None:
            return None
        scope: Scope = request.principal.scope(request.principal.tenant, namespace)
        return scope.namespace

    # -- operation ----------------------------------------------------------------------------------------

    async def healthz(self, _request: Request) -> Response:
        """GET /healthz"""
        return json_response(200, {"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """GET /readyz"""
        if self.draining or not self._node.ready:
            raise Unavailable("the node takes no work: it is starting or stopping")
        return json_response(200, {"status": "ready"})

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics"""
        return Response(200, [(b"content-type", CONTENT_TYPE), NO_STORE], self._metrics.render())

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json"""
        return Response(200, [JSON], self._openapi)

    # -- errors -------------------------------------------------------------------------------------------

    def _problem(self, error: PlexSpacesError) -> Response:
        return self.incident(error) if error.code == InternalError.code else problem(error)

    def incident(self, error: Exception) -> Response:
        """The answer to a fault of the node's own, which the log explains."""
        incident = self._node.ids.next("incident")
        _log.error("%s: %s", incident, error, exc_info=error)
        return problem(InternalError("a fault of the node"), incident=incident)


def _remember(memory: dict[Any, Any], key: object, value: object, key_bytes: int) -> None:
    """Keep what was parsed, if its text is short.  A full memory is emptied: cheaper than knowing what is old, and
    whatever is in use is back at once."""
    if key_bytes > _REMEMBERED_BYTES_MAX:
        return
    if len(memory) >= _REMEMBERED_MAX:
        memory.clear()
    memory[key] = value


async def _send_pieces(answer: StreamingResponse, send: Send, *, only_head: bool) -> None:
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        async with aclosing(answer.pieces) as pieces:
            if not only_head:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        answer.close()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _match(template: tuple[str, ...], segments: list[bytes], *, rest: bool) -> dict[str, bytes] | None:
    """The parameters of a path that fits a template; None for one that does not.

    Args:
        rest: the last parameter takes all the segments that are left.
    """
    if rest and len(segments) > len(template):
        last = len(template) - 1
        segments = [*segments[:last], b"/".join(segments[last:])]
    if len(template) != len(segments):
        return None
    parameters = {}
    for part, segment in zip(template, segments, strict=True):
        if part.startswith("{"):
            parameters[part[1:-1]] = segment
        elif part.encode() != segment:
            return None
    return parameters


def _other_method(method: str, allowed: list[str] | tuple[str, ...]) -> Response:
    names = list(dict.fromkeys(allowed))
    if method == "OPTIONS":
        return Response(204, [(b"allow", ", ".join(names).encode())])
    raise MethodNotAllowed(f"this address answers {', '.join(names)}, not {method}", allow=names)


def _actor_json(info: ActorInfo) -> dict[str, Any]:
    address = info.address
    return {
        "tenant": address.scope.tenant,
        "namespace": address.scope.namespace,
        "type": address.type,
        "key": address.key,
        **{each.name: getattr(info, each.name) for each in fields(info) if each.name != "address"},
    }


def _deployment_json(deployment: Deployment) -> dict[str, Any]:
    return {
        "tenant": deployment.scope.tenant,
        "namespace": deployment.scope.namespace,
        **{each.name: getattr(deployment, each.name) for each in fields(deployment) if each.name != "scope"},
    }


def _application_json(status: ApplicationStatus) -> dict[str, Any]:
    return {
        "tenant": status.scope.tenant,
        "namespace": status.scope.namespace,
        **{each.name: getattr(status, each.name) for each in fields(status) if each.name != "scope"},
        "components": dict(status.components),
    }


def _tree_json(node: TreeNode) -> dict[str, Any]:
    address = node.address
    return {
        **{each.name: getattr(node, each.name) for each in fields(node)},
        "address": None if address is None else address.text,
        "children": [_tree_json(child) for child in node.children],
    }


def _check_components(config: AppConfig, uploaded: Collection[str]) -> None:
    """Refuse a form whose files are not the configuration's components; all that is wrong at once."""
    declared = {component.name: component for component in config.components}
    missing = [name for name in declared if name not in uploaded]
    unknown = [name for name in uploaded if name not in declared]
    issues = [
        f"the component {name!r} (line {declared[name].line} of the configuration) is not in the form: add it as a "
        f"file (curl -F {name}=@FILE.wasm). The node reads neither path nor source; plexspaces deploy uploads what "
        "they name"
        for name in missing
    ]
    issues += [
        f"the form has a file {name[:80]!r}, and the configuration has no such component; it has " + ", ".join(declared)
        for name in unknown
    ]
    if issues:
        raise InvalidArgument("; ".join(issues), missing=missing, unknown=unknown)


def _config(text: str) -> dict[str, Any]:
    try:
        config = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the field 'config' is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidArgument("the field 'config' is to be a JSON object")
    return config


def _boolean(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidArgument(f"{name} is to be true or false, not {text[:40]!r}")
    return text == "true"


def _hashes(files: Mapping[str, Path]) -> list[str]:
    """Of uploaded files, with their names, in an order of our own."""
    found = []
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            found += [name, hashlib.file_digest(file, "sha256").hexdigest()]
    return found


def _digest(*texts: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        # Lengths first: no two lists of texts are one text.
        digest.update(b"%d:" % len(text))
        digest.update(text.encode())
    return digest.digest()
