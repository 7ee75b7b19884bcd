"""`plexspaces:actor/http`: requests through service links, and answers that are read piece by piece.

A request is a task, and an answer that is being read an open connection.  Both belong to the incarnation that waits for
them: when it ends, whatever ends it, the task is cancelled and the connection closed.

A durable actor's request is one recorded effect.  Before it leaves, the journal says so; if the node dies before the
answer is recorded, it is made again after the restart, with the same idempotency key, so that who gets it can tell.  Of
an answer that is read piece by piece each piece is recorded; its connection does not outlive the incarnation, so what a
restart has cut off ends with an error, which is recorded as well.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import orjson

from ..actors.actor import Actor
from ..actors.guest import Ok
from ..egress.model import Call, Request
from ..errors import DeadlineExceeded, InvalidArgument, LimitExceeded, NotFound, PlexSpacesError, Unavailable
from ..events import HostFault
from ..scheduler import PENDING
from .credentials import forget_credential, register_credential
from .messaging import inherited_deadline_ns
from .wire import error_value

if TYPE_CHECKING:
    from ..egress.egress import Body, Egress
    from .gate import Host

__all__ = ["Exchanges", "close", "fetch", "fetch_stream", "forget_credential", "read_chunk", "register_credential"]

_NS_PER_S: Final = 1_000_000_000
_KEY_BYTES: Final = 16
_EPOCH_BYTES: Final = 8
_STREAM_ID: Final = re.compile(r"answer-[0-9a-f]{16}-[0-9]{1,9}")


def fetch(host: Host, actor: Actor, request: tuple[str, str, str, str, str, bool, int]) -> Any:
    """Make a request, and suspend the caller until the whole answer is there."""
    egress = _egress(host)
    call, wanted = _prepared(host, actor, request)

    async def fetched() -> Any:
        answer = await egress.fetch(call, wanted)
        return (answer.status, _headers_text(answer.headers), *_body_text(answer.body))

    return host.exchanges.begin(actor, "fetch", fetched)


def fetch_stream(host: Host, actor: Actor, request: tuple[str, str, str, str, str, bool, int]) -> Any:
    """Make a request, and suspend the caller until the head of the answer is there."""
    egress = _egress(host)
    host.exchanges.check_room(actor)
    call, wanted = _prepared(host, actor, request)
    total_s = egress.find(call.scope, wanted.link).total_timeout_s
    until_ns = host.clock.monotonic_ns() + int(min(total_s, wanted.timeout_ms / 1_000 or total_s) * _NS_PER_S)

    async def opened() -> Any:
        body = await egress.open(call, wanted)
        return (body.status, _headers_text(body.headers), host.exchanges.keep(actor, body, until_ns), False)

    return host.exchanges.begin(actor, "fetch-stream", opened)


def read_chunk(host: Host, actor: Actor, stream_id: str) -> Any:
    """The next piece of an answer; suspends the caller until there is one."""
    _egress(host)
    return host.exchanges.begin(actor, "read-chunk", host.exchanges.reading(actor, stream_id))


def close(host: Host, actor: Actor, stream_id: str) -> None:
    """Stop reading an answer."""
    host.exchanges.drop(actor, stream_id)


# -- what is under way -------------------------------------------------------------------------------------


class _Answers:
    """What one incarnation of an actor reads piece by piece.

    Attributes:
        epoch: tells the ids of this incarnation from those of earlier ones.
        made: how many it has begun to read.
        open: by id; None of one whose time is over.
        alarms: by id, of those whose time is not over.
        reading: the one whose next piece it waits for; "" if it waits for none.
    """

    __slots__ = ("alarms", "epoch", "made", "open", "reading")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.made = 0
        self.open: dict[str, Body | None] = {}
        self.alarms: dict[str, asyncio.TimerHandle] = {}
        self.reading = ""


class Exchanges:
    """Requests under way, and answers that are being read, of all actors."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._answers: dict[Actor, _Answers] = {}
        # Requests and reads under way.
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        """How many requests and reads there are."""
        return len(self._tasks)

    def begin(self, actor: Actor, function: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do something while the actor waits for it; answers `PENDING`."""
        task = self._host.loop.create_task(self._do(actor, actor.wait_token, function, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._host.waiting[actor] = partial(_cancel, task)
        return PENDING

    async def _do(self, actor: Actor, token: int, function: str, work: Callable[[], Awaitable[Any]]) -> None:
        host = self._host
        try:
            value: Any = Ok(await work())
        except PlexSpacesError as error:
            value = error_value(error)
        except Exception as fault:  # noqa: BLE001 - as in `Host.serve`: a fault of ours is not the guest's end
            host.events.emit(HostFault(actor.address, "http", function, f"{type(fault).__name__}: {fault}"))
            value = error_value(fault)
        host.waiting.pop(actor, None)
        host.scheduler.resume(actor, token, value)

    def check_room(self, actor: Actor) -> None:
        """Refuse another answer to be read piece by piece, if the actor reads as many as it may.

        Raises:
            LimitExceeded
        """
        answers = self._answers.get(actor)
        most = actor.spec.limits.http_streams_per_actor_max
        if answers is not None and len(answers.open) >= most:
            raise LimitExceeded(
                f"actor {actor.address.text!r} reads {len(answers.open)} answers already: see "
                "http_streams_per_actor_max; close those that it does not read to the end",
                limit="http_streams_per_actor_max",
                value=most,
            )

    def keep(self, actor: Actor, body: Body, until_ns: int) -> str:
        """An answer has begun, and is over at a time of the monotonic clock; the id that it is read by."""
        answers = self._answers.get(actor)
        if answers is None:
            answers = self._answers[actor] = _Answers(self._host.ids.random_bytes(_EPOCH_BYTES).hex())
        answers.made += 1
        id_ = f"answer-{answers.epoch}-{answers.made}"
        answers.open[id_] = body
        left_s = max(0, until_ns - self._host.clock.monotonic_ns()) / _NS_PER_S
        answers.alarms[id_] = self._host.loop.call_later(left_s, self._late, actor, id_)
        return id_

    def reading(self, actor: Actor, id_: str) -> Callable[[], Awaitable[str | None]]:
        """What reads the next piece.

        Raises:
            NotFound: the actor reads no such answer.
            Unavailable: it did, in an earlier incarnation.
            DeadlineExceeded: its time is over.
        """
        answers = self._answers.get(actor)
        if answers is None or id_ not in answers.open:
            known = f"answer-{answers.epoch}-" if answers is not None else "-"
            if actor.keeper is not None and _STREAM_ID.fullmatch(id_) and not id_.startswith(known):
                raise Unavailable(
                    f"answer {id_!r} was cut off: its actor has been restarted since; make the request again",
                    stream=id_,
                )
            raise NotFound(f"the actor reads no answer {id_[:80]!r}: it is over, or was closed")
        body = answers.open[id_]
        if body is None:
            self.drop(actor, id_)
            raise DeadlineExceeded(f"answer {id_!r} was not read to its end in time")
        return partial(self._read, actor, answers, id_, body)

    async def _read(self, actor: Actor, answers: _Answers, id_: str, body: Body) -> str | None:
        deadline_ns = inherited_deadline_ns(actor)
        left_s = (deadline_ns - self._host.clock.monotonic_ns()) / _NS_PER_S if deadline_ns else None
        piece = None
        answers.reading = id_
        try:
            async with asyncio.timeout(left_s):
                piece = await body.read()
        except TimeoutError:
            raise DeadlineExceeded(f"the next piece of answer {id_!r} did not come in the caller's time") from None
        finally:
            answers.reading = ""
            if piece is None:
                # At its end, or broken: nothing more comes.
                self.drop(actor, id_)
            elif id_ not in answers.alarms:
                self._expire(answers, id_)
        return piece

    def drop(self, actor: Actor, id_: str) -> None:
        """Read no more of an answer, if the actor does."""
        answers = self._answers.get(actor)
        if answers is None or id_ not in answers.open:
            return
        if (alarm := answers.alarms.pop(id_, None)) is not None:
            alarm.cancel()
        if (body := answers.open.pop(id_)) is not None:
            body.close()

    def remove_all(self, actor: Actor) -> None:
        """The actor has ended: it reads nothing any more."""
        answers = self._answers.pop(actor, None)
        if answers is None:
            return
        for alarm in answers.alarms.values():
            alarm.cancel()
        for body in answers.open.values():
            if body is not None:
                body.close()

    def _late(self, actor: Actor, id_: str) -> None:
        """The time of an answer is over.  A read that is under way ends by itself."""
        answers = self._answers[actor]
        del answers.alarms[id_]
        if answers.reading != id_:
            self._expire(answers, id_)

    def _expire(self, answers: _Answers, id_: str) -> None:
        body, answers.open[id_] = answers.open[id_], None
        if body is not None:
            body.close()

    async def close(self) -> None:
        """Wait until nothing is under way.  All actors must be dead."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


# -- requests and answers ----------------------------------------------------------------------------------


def _egress(host: Host) -> Egress:
    if host.egress is None:
        raise Unavailable("this node has no way out")
    return host.egress


def _prepared(
    host: Host, actor: Actor, request: tuple[str, str, str, str, str, bool, int]
) -> tuple[Call, Request]:
    """Who asks, and for what.

    Raises:
        InvalidArgument
    """
    link, method, path, headers_text, body, is_base64, timeout_ms = request
    headers = _headers(headers_text)
    cause = actor.current
    call = Call(
        scope=actor.address.scope,
        actor=actor.address.text,
        caller=cause.caller.subject if cause is not None and cause.caller is not None else "",
        idempotency_key=_key(actor),
        deadline_ns=inherited_deadline_ns(actor),
        message_id=actor.current_id,
        trace=cause.trace if cause is not None else "",
    )
    wanted = Request(
        link=link,
        method=method,
        path=path,
        headers=headers,
        body=_body(body, is_base64=is_base64),
        timeout_ms=timeout_ms,
    )
    return call, wanted


def _key(actor: Actor) -> str:
    """What the request of a durable actor is known by outside: see `Keeper.outside_id`.

    With the actor's name in it: what a message is called may be its sender's choice, and the same for another actor.
    """
    keeper = actor.keeper
    if keeper is None or not keeper.recording:
        return ""
    scope = actor.address.scope
    name = "\n".join((scope.tenant, scope.namespace, actor.address.text, keeper.outside_id()))
    return "ps-" + blake2b(name.encode(), digest_size=_KEY_BYTES).hexdigest()


def _headers(text: str) -> dict[str, str]:
    try:
        headers = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        headers = None
    if not isinstance(headers, dict):
        raise InvalidArgument("the headers are no JSON object of name to value")
    for name, value in headers.items():
        if not isinstance(value, str):
            raise InvalidArgument(f"the value of header {name[:80]!r} is no text")
    return headers


def _body(text: str, *, is_base64: bool) -> bytes:
    if not is_base64:
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument("the body is not base64") from None


def _headers_text(headers: Mapping[str, str]) -> str:
    return orjson.dumps(dict(headers)).decode()


def _body_text(body: bytes) -> tuple[str, bool]:
    """As the contract has it: text, or base64 where it is none."""
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True
