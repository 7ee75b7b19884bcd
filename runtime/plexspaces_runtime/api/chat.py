"""Chat for existing clients: the endpoints of OpenAI's API that they need, in front of MiniClaw's agents, and a page.

A conversation is the client's own, which sends all of it every time, unless it names a session (`X-Session-Id`): then
the session's agent keeps it, and only the last message counts.  What is streamed is read from the session's event
stream, after the agent's own answer to whose session it is; nothing here decides anything about models or tools.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from ..errors import InvalidArgument, NotFound, PlexSpacesError, RateLimited, Unavailable
from ..scope import Address, Scope, check_name
from .auth import Principal
from .config import HttpConfig
from .faults import Response, StreamingResponse
from .incoming import JSON, NO_STORE, Request, json_response
from .ports import NodePort, StorePort
from .requests import check_content_type

_PAGE: Final = Path(__file__).with_name("chat.html")
_SESSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,127}")
_NAMESPACE_HEADER: Final = b"x-namespace"
_SESSION_HEADER: Final = b"x-session-id"
_EVENTS_HEADER: Final = b"x-session-events"
# What the names of the agents begin with that answer conversations which clients keep.
_OWN: Final = "api-"
# Conversations of one caller that are answered at the same time; each has an agent while it is.
_SLOTS_MAX: Final = 16
_BATCH: Final = 16
_REASONS: Final = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length"}
# By the router's code: HTTP status, and type in OpenAI's words.
_REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    "invalid_request": (400, "invalid_request_error"),
    "unauthorised": (502, "provider_error"),
    "budget_exhausted": (429, "insufficient_quota"),
    "rate_limited": (429, "rate_limit_error"),
    "timeout": (504, "timeout"),
    "cancelled": (409, "cancelled"),
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request in the agent's words.

    Attributes:
        session: whose agent keeps the conversation, "" where the client does.
        op, payload: the agent's message, without what says whose turn it is.
        include_usage: a stream ends with what was used.
        events: a stream carries the session's events, too, for our own page.
    """

    model: str
    session: str
    op: str
    payload: dict[str, Any]
    stream: bool
    include_usage: bool
    events: bool


class ChatRoutes:
    """The handlers of `/v1/chat/completions`, `/v1/models` and `/chat`."""

    def __init__(self, node: NodePort, stores: StorePort | None, config: HttpConfig) -> None:
        self._node = node
        self._stores = stores
        self._config = config
        self._page = _PAGE.read_bytes()
        self._policy = _policy(self._page)
        # By tenant, namespace and caller: the agents that answer a conversation of theirs now.
        self._busy: dict[tuple[str, str, str], set[int]] = {}

    async def chat_page(self, request: Request) -> Response:
        """GET /chat"""
        headers = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"content-security-policy", self._policy),
        ]
        return Response(200, headers, self._page)

    async def chat_models(self, request: Request) -> Response:
        """GET /v1/models"""
        scope = _scope(request)
        self._must_be_there(scope, "llm_router")
        reply = orjson.loads(
            await self._node.ask(
                Address(scope, "llm_router"), "list_models", "{}", caller=request.principal.caller, timeout_s=30.0
            )
        )
        models = [{"id": "auto", "object": "model", "created": 0, "owned_by": "miniclaw"}]
        for each in reply["models"]:
            models.append({"id": each["name"], "object": "model", "created": 0, "owned_by": each["provider"]})
        return json_response(200, {"object": "list", "data": models})

    async def chat_completions(self, request: Request) -> Response | StreamingResponse:
        """POST /v1/chat/completions"""
        scope = _scope(request)
        body = await request.body(self._node.limits.payload_bytes_max)
        check_content_type(request.headers.get(b"content-type"), body)
        ask = parse(body, request.headers)
        self._must_be_there(scope, "agent")
        if ask.session:
            # Whoever named the session first owns it.  Asked now, before anything of its stream is read.
            await self._say(scope, request.principal, "session_manager", "register_session",
                            {"session_id": ask.session, "channel": "openai"})  # fmt: skip
            return await self._answer(scope, request.principal, ask, ask.session, None)
        slot = self._take_slot(scope, request.principal)
        try:
            return await self._answer(scope, request.principal, ask, slot[1], slot)
        except BaseException:
            self._give_back(slot)
            raise

    async def _answer(
        self, scope: Scope, principal: Principal, ask: Ask, session: str, slot: _Slot | None
    ) -> Response | StreamingResponse:
        request_id = self._node.ids.next("chatcmpl")
        payload = {**ask.payload, "request": request_id}
        if ask.stream:
            if self._stores is None:
                raise Unavailable("this node keeps no event streams")
            pieces = self._stream(scope, principal, ask, session, payload, request_id)
            headers = [(b"content-type", b"text/event-stream"), NO_STORE, (b"x-accel-buffering", b"no")]
            # Also where nobody asks for the first piece.
            return StreamingResponse(200, headers, pieces, lambda: self._give_back(slot))
        reply = await self._say(scope, principal, f"agent/{session}", ask.op, payload, self._config.wait_s_max)
        self._give_back(slot)
        if "error" in reply or reply["status"] == "budget_exhausted":
            return _refusal(reply)
        return Response(200, [JSON, NO_STORE], orjson.dumps(self._whole(reply, ask, request_id)))

    async def _say(
        self, scope: Scope, principal: Principal, name: str, op: str, payload: dict[str, Any], timeout_s: float = 30.0
    ) -> dict[str, Any]:
        text = await self._node.ask(
            Address.parse(scope, name), op, orjson.dumps(payload).decode(), caller=principal.caller, timeout_s=timeout_s
        )
        reply: dict[str, Any] = orjson.loads(text)
        return reply

    def _must_be_there(self, scope: Scope, actor_type: str) -> None:
        if self._node.deployment(scope, actor_type) is None:
            raise NotFound(
                f"MiniClaw is not deployed in namespace {scope.namespace!r}: plexspaces deploy app-config.toml",
                namespace=scope.namespace,
            )

    # -- conversations that the client keeps ------------------------------------------------------------

    def _take_slot(self, scope: Scope, principal: Principal) -> _Slot:
        who = (scope.tenant, scope.namespace, principal.subject)
        busy = self._busy.setdefault(who, set())
        free = next((number for number in range(_SLOTS_MAX) if number not in busy), None)
        if free is None:
            raise RateLimited(
                f"{_SLOTS_MAX} conversations of this caller are answered just now, as many as may be: try again later",
                retry_after_ms=1_000,
            )
        busy.add(free)
        # Two subjects never share one, whatever they are called.
        return who, f"{_OWN}{principal.subject.encode().hex()[:96]}-{free}", free

    def _give_back(self, slot: _Slot | None) -> None:
        if slot is None:
            return
        who, _, number = slot
        busy = self._busy.get(who, set())
        busy.discard(number)
        if not busy:
            self._busy.pop(who, None)

    # -- answers ----------------------------------------------------------------------------------------

    def _whole(self, reply: dict[str, Any], ask: Ask, request_id: str) -> dict[str, Any]:
        said = _said(reply)
        message: dict[str, Any] = {"role": "assistant", "content": said["content"] or None, "refusal": None}
        if said["tool_calls"]:
            message["tool_calls"] = [_call(call) for call in said["tool_calls"]]
        elif message["content"] is None:
            message["content"] = ""
        choice = {"index": 0, "message": message, "finish_reason": _reason(said), "logprobs": None}
        return {
            **self._head(reply.get("model") or ask.model, request_id, "chat.completion"),
            "choices": [choice], "usage": _usage(reply),
        }  # fmt: skip

    def _head(self, model: str, request_id: str, kind: str) -> dict[str, Any]:
        return {"id": request_id, "object": kind, "created": self._node.clock.now_ns() // 1_000_000_000, "model": model}

    async def _stream(
        self, scope: Scope, principal: Principal, ask: Ask, session: str, payload: dict[str, Any], request_id: str
    ) -> AsyncGenerator[bytes, None]:
        head = self._head(ask.model, request_id, "chat.completion.chunk")
        assert self._stores is not None
        streams, path = self._stores.streams, f"/sessions/{session}"
        wake = asyncio.Event()
        try:
            after = streams.info(scope, path).last
        except NotFound:
            after = 0
        stop = streams.watch(scope, path, wake.set, durable=True)
        asked = asyncio.ensure_future(
            self._say(scope, principal, f"agent/{session}", ask.op, payload, self._config.wait_s_max)
        )
        asked.add_done_callback(lambda _: wake.set())
        follow = _Follow(request_id, head)
        try:
            yield _sse({**head, "choices": [_chunk({"role": "assistant", "content": ""})]})
            while True:
                wake.clear()
                finished = asked.done()
                while events := streams.read(scope, path, after, _BATCH, durable=True):
                    after = events[-1].offset
                    for event in events:
                        shown = follow.take(event.event_type, orjson.loads(event.payload))
                        if shown is None:
                            continue
                        if ask.events:
                            yield b"event: session\ndata: " + orjson.dumps(
                                {"offset": event.offset, "event_type": event.event_type, "payload": shown}
                            ) + b"\n\n"
                        for text in follow.texts():
                            yield _sse({**head, "choices": [_chunk({"content": text})]})
                if finished:
                    break
                try:
                    async with asyncio.timeout(self._config.live_heartbeat_s):
                        await wake.wait()
                except TimeoutError:
                    yield b": waiting\n\n"
            for piece in self._last(asked, follow, head, ask):
                yield piece
        finally:
            stop()
            if not asked.done():
                asked.cancel()
                # Nobody reads any more: the turn need not go on.
                await self._cancel(scope, principal, session)

    async def _cancel(self, scope: Scope, principal: Principal, session: str) -> None:
        try:
            named = {"session_id": session}
            await self._say(scope, principal, "session_manager", "register_session", named, 5.0)
            await self._say(scope, principal, "session_manager", "cancel_turn", named, 5.0)
        except PlexSpacesError:
            return

    def _last(
        self, asked: asyncio.Future[dict[str, Any]], follow: _Follow, head: dict[str, Any], ask: Ask
    ) -> Iterator[bytes]:
        try:
            reply = asked.result()
        except PlexSpacesError as error:
            yield _sse({"error": {"message": error.message, "type": "error", "code": error.code}})
            yield b"data: [DONE]\n\n"
            return
        if "error" in reply or reply["status"] == "budget_exhausted":
            yield _sse(orjson.loads(_refusal(reply).body))
            yield b"data: [DONE]\n\n"
            return
        said = _said(reply)
        # What was not streamed, because it came from nowhere that streams, comes now.
        if said["content"] and not follow.said.endswith(said["content"]):
            yield _sse({**head, "choices": [_chunk({"content": said["content"]})]})
        if said["tool_calls"]:
            calls = [{"index": position, **_call(call)} for position, call in enumerate(said["tool_calls"])]
            yield _sse({**head, "choices": [_chunk({"tool_calls": calls})]})
        yield _sse({**head, "choices": [_chunk({}, _reason(said))]})
        if ask.include_usage:
            yield _sse({**head, "choices": [], "usage": _usage(reply)})
        yield b"data: [DONE]\n\n"


_Slot = tuple[tuple[str, str, str], str, int]


def _policy(page: bytes) -> bytes:
    """What the page may do (W3C Content Security Policy 3): run its own script and style, and talk to its own node."""

    def source(tag: bytes) -> bytes:
        (inline,) = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
        return b"'sha256-%b'" % base64.b64encode(hashlib.sha256(inline).digest())

    return (
        b"default-src 'none'; script-src %b; style-src %b; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'" % (source(b"script"), source(b"style"))
    )


class _Follow:
    """Finds one turn among a session's events, and its text.

    Attributes:
        said: all text so far.
    """

    def __init__(self, request_id: str, head: dict[str, Any]) -> None:
        self.said = ""
        self._request_id = request_id
        self._head = head
        self._begun = False
        self._ended = False
        self._attempt: tuple[int, int] | None = None
        self._waiting: list[str] = []

    def take(self, event_type: str, payload: dict[str, Any]) -> dict[str, Any] | None:
        """An event of the stream; None when it is not of this turn."""
        if not self._begun:
            self._begun = event_type == "input" and payload.get("request") == self._request_id
        if not self._begun or self._ended:
            return None
        if event_type == "end":
            self._ended = True
        elif event_type == "text_delta":
            attempt = payload.get("round", 0), payload.get("attempt", 1)
            if self._attempt is not None and attempt[0] == self._attempt[0] and attempt != self._attempt:
                # What was said cannot be taken back; that it begins again can be said.
                self._add("\n\n[the answer broke off; it begins again]\n\n")
            self._attempt = attempt
            self._add(str(payload.get("text", "")))
        elif event_type == "model_response" and payload.get("model"):
            self._head["model"] = payload["model"]
        return payload

    def texts(self) -> Iterator[str]:
        """What is to be sent now."""
        waiting, self._waiting = self._waiting, []
        yield from waiting

    def _add(self, text: str) -> None:
        self.said += text
        self._waiting.append(text)


# -- requests ----------------------------------------------------------------------------------------------


def parse(body: bytes, headers: Mapping[bytes, bytes]) -> Ask:
    """A request of OpenAI's API, in the agent's words.  What has no meaning here is left aside, as its clients expect.

    Raises:
        InvalidArgument: it is none; the message says where.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("messages"), list) or not content["messages"]:
        raise InvalidArgument('the body is to be an object with "messages", a list of at least one')
    if content.get("n", 1) not in (1, None):
        raise InvalidArgument("n is to be 1: there is one answer to a conversation")
    messages = [_message(each, position) for position, each in enumerate(content["messages"])]
    session = headers.get(_SESSION_HEADER, b"").decode("latin-1")
    if session and (not _SESSION.fullmatch(session) or session.startswith(_OWN)):
        raise InvalidArgument(f"X-Session-Id is to be 1 to 128 letters, digits and _ . @ : -, and not to begin {_OWN}")
    model = content.get("model") or "auto"
    if not isinstance(model, str):
        raise InvalidArgument("model is to be a text")
    model = "" if model in ("auto", "miniclaw") else model
    options = content.get("stream_options") or {}
    tools = [_tool(each, position) for position, each in enumerate(content.get("tools") or ())]
    if session:
        if tools:
            raise InvalidArgument("a session runs its own tools: leave tools out, or X-Session-Id")
        if messages[-1]["role"] != "user":
            raise InvalidArgument("the last message of a session is the user's: the agent keeps the others")
        op, payload = "chat", {"message": messages[-1]["content"], "model": model}
    else:
        op, payload = "complete", {
            "messages": messages, "tools": tools or None, "model": model,
            "max_tokens": _whole(content.get("max_completion_tokens") or content.get("max_tokens") or 0, "max_tokens"),
            "temperature": _number(content.get("temperature"), "temperature"),
            "tool_choice": _choice(content.get("tool_choice")),
            "response_format": _format(content.get("response_format")),
        }  # fmt: skip
    return Ask(
        model or "auto", session, op, payload, content.get("stream") is True,
        isinstance(options, dict) and options.get("include_usage") is True,
        headers.get(_EVENTS_HEADER) == b"true",
    )  # fmt: skip


def _message(each: Any, position: int) -> dict[str, Any]:
    where = f"messages[{position}]"
    if not isinstance(each, dict):
        raise InvalidArgument(f"{where} is to be an object")
    role = {"developer": "system", "function": "tool"}.get(each.get("role", ""), each.get("role"))
    if role not in ("system", "user", "assistant", "tool"):
        raise InvalidArgument(f"{where}.role is to be system, developer, user, assistant or tool")
    message: dict[str, Any] = {"role": role, "content": _text(each.get("content"), where)}
    if role == "tool":
        message["tool_call_id"] = str(each.get("tool_call_id", ""))
        message["name"] = str(each.get("name", ""))
    if each.get("tool_calls"):
        message["tool_calls"] = [_read_call(call, where) for call in each["tool_calls"]]
    return message


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        for part in content:
            if part.get("type") not in ("text", "refusal"):
                kind = str(part.get("type"))[:40]
                raise InvalidArgument(f"{where}.content: parts of type {kind!r} are not understood")
        return "".join(str(part.get("text") or part.get("refusal") or "") for part in content)
    raise InvalidArgument(f"{where}.content is to be a text or a list of texts")


def _read_call(call: Any, where: str) -> dict[str, Any]:
    try:
        function = call["function"]
        arguments = orjson.loads(function["arguments"] or "{}")
        if not isinstance(arguments, dict):
            raise TypeError
        return {"id": str(call["id"]), "name": str(function["name"]), "input": arguments}
    except (KeyError, TypeError, orjson.JSONDecodeError):
        raise InvalidArgument(f"{where}.tool_calls holds what is no call of a function") from None


def _tool(each: Any, position: int) -> dict[str, Any]:
    try:
        function = each["function"]
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        return {"name": str(function["name"]), "description": str(function.get("description", "")),
                "input_schema": schema}  # fmt: skip
    except (KeyError, TypeError, AttributeError):
        raise InvalidArgument(f"tools[{position}] is to be a function with a name") from None


def _choice(choice: Any) -> str:
    if choice is None:
        return ""
    if isinstance(choice, str):
        return choice
    try:
        return str(choice["function"]["name"])
    except (KeyError, TypeError):
        raise InvalidArgument("tool_choice is to be auto, none, required or a function") from None


def _format(value: Any) -> dict[str, Any] | None:
    if value is None or isinstance(value, dict):
        return value
    raise InvalidArgument("response_format is to be an object")


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000:
        raise InvalidArgument(f"{name} is to be a whole number up to 1,000,000")
    return value


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
        raise InvalidArgument(f"{name} is to be a number from 0 to 2")
    return float(value)


def _scope(request: Request) -> Scope:
    namespace = request.headers.get(_NAMESPACE_HEADER, b"default").decode("latin-1")
    return request.principal.scope(request.principal.tenant, check_name("namespace", namespace))


# -- replies -----------------------------------------------------------------------------------------------


def _said(reply: dict[str, Any]) -> dict[str, Any]:
    """The assistant's message in a reply of the agent's: a whole one, a text, or word of what it waits for."""
    response = reply["response"]
    if isinstance(response, dict):
        return response
    if reply["status"] == "waiting_for_approval":
        names = ", ".join(each["name"] for each in reply["approvals"])
        response = f"[waiting for approval: {names}; see `plexspaces approvals`]"
    elif reply["status"] == "cancelled":
        response = "[cancelled]"
    return {"role": "assistant", "stop_reason": "end_turn", "content": response, "tool_calls": []}


def _reason(said: dict[str, Any]) -> str:
    return "tool_calls" if said["tool_calls"] else _REASONS.get(said["stop_reason"], "stop")


def _call(call: dict[str, Any]) -> dict[str, Any]:
    arguments = orjson.dumps(call["input"]).decode()
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _usage(reply: dict[str, Any]) -> dict[str, int]:
    usage = reply.get("usage") or {"input_tokens": 0, "output_tokens": 0}
    prompt, completion = usage["input_tokens"], usage["output_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _refusal(reply: dict[str, Any]) -> Response:
    code = reply.get("error") or reply["status"]
    status, kind = _REFUSALS.get(code, (503, "provider_error"))
    error = {"message": reply.get("message") or code, "type": kind, "code": code, "param": None}
    headers = [JSON, NO_STORE]
    if retry_after_ms := reply.get("retry_after_ms"):
        headers.append((b"retry-after", b"%d" % max(1, -(-retry_after_ms // 1000))))
    return Response(status, headers, orjson.dumps({"error": error}))


def _chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}


def _sse(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
