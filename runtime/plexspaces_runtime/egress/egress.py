"""Egress: the one way out of a node, from an actor's wish to an answer without secrets.

fetch / open
  find, serves             which link, and is it this actor's                     not-found, permission-denied
  admission.admit          canonical, allowed, with what the link adds            invalid-argument, permission-denied
  flushed                  what the request depends on is on disk
  turn, breaker, bucket    the link's budgets, one set for each tenant            rate-limited, unavailable
  credentials.inject       from here on the request is secret
  client.Pool.send         resolve, check, connect, send, head
  redactor                 from here on the answer is nobody's secret
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from ..clock import Clock
from ..errors import (
    AlreadyExists,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    PlexSpacesError,
    RateLimited,
    Unavailable,
)
from ..events import (
    BreakerChanged,
    EgressAnswered,
    EgressFailed,
    EgressRefused,
    EgressRequested,
    EventBus,
    SecretReflected,
)
from ..ids import Ids
from ..scope import Scope
from . import redirects
from .addresses import Network
from .admission import Admitted, admit, check_user
from .breaker import Breaker, Permission, Signal
from .budget import Bucket, Turns
from .client import Answer, Broken, Contexts, Pool, Slow
from .links import Link, LinkState
from .model import Call, Credentials, Outgoing, PhantomSlots, Redactor, Request, Response
from .network import Dialler, Forbidden, NoConnection, Resolve, SystemResolver
from .retries import retry_after_s, retry_in_s
from .urls import canonical_method, canonical_target, check_header_value

__all__ = ["Body", "Call", "Egress", "Link", "Request", "Response"]

# A service that answers like this has a fault of its own; below, the request has.
_FAULTY: Final = 500
_NO_PHANTOMS: Final = PhantomSlots(headers=frozenset())


class Egress:
    """All service links of one node.

    Args:
        credentials: puts secrets into requests.
        permitted: ranges of addresses that are not public and that links may name.
        resolve: the addresses of a host and port; None asks the system.
        node_links: links of every tenant's actors; an application's own of the same name win.
        flushed: returns when what was written so far is on disk; nothing leaves before.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        ids: Ids,
        events: EventBus,
        loop: asyncio.AbstractEventLoop,
        credentials: Credentials,
        permitted: Sequence[Network] = (),
        resolve: Resolve | None = None,
        node_links: Mapping[str, Link] | None = None,
        flushed: Callable[[], Awaitable[None]],
    ) -> None:
        self.clock = clock
        self.events = events
        self._ids = ids
        self._loop = loop
        self._credentials = credentials
        self._flushed = flushed
        self._resolver: SystemResolver | None = None
        if resolve is None:
            resolve = self._resolver = SystemResolver()
        self._dialler = Dialler(loop, permitted, resolve)
        self._contexts = Contexts()
        self._node_links = dict(node_links or {})
        # By namespace, then by application.
        self._links: dict[Scope, dict[str, dict[str, Link]]] = {}
        # By the one whose budgets they are: a namespace for its own links, a tenant for the node's.
        self._lanes: dict[tuple[Scope | str, str], _Lane] = {}
        self.bodies: set[Body] = set()
        self._closed = False
        # Connections that are being closed.
        self._closing: set[asyncio.Task[None]] = set()

    # -- links ---------------------------------------------------------------------------------------------------

    def set_links(self, scope: Scope, application: str, links: Mapping[str, Link]) -> None:
        """Let these be the links of an application; an empty mapping removes them.

        Raises:
            AlreadyExists: another application of the namespace has a link of that name; nothing is changed.
        """
        others = {
            name: other
            for other, theirs in self._links.get(scope, {}).items()
            if other != application
            for name in theirs
        }
        if taken := sorted(others.keys() & links.keys()):
            raise AlreadyExists(
                f"link {taken[0]!r} is one of application {others[taken[0]]!r} in this namespace: name it otherwise",
                link=taken[0],
                application=others[taken[0]],
            )
        applications = self._links.setdefault(scope, {})
        before = applications.pop(application, {})
        if links:
            applications[application] = dict(links)
        if not applications:
            del self._links[scope]
        for name, link in before.items():
            # A link that stays as it is keeps its connections and budgets.
            if links.get(name) != link and (lane := self._lanes.pop((scope, name), None)) is not None:
                lane.pool.close()

    def find(self, scope: Scope, name: str) -> Link:
        """The link of that name in a namespace, or the node's.

        Raises:
            NotFound: there is none.
        """
        return self._find(scope, name)[0]

    def links_of(self, tenant: str) -> list[tuple[str, Link]]:
        """A tenant's links, each with its namespace; "" for the node's that the tenant may use."""
        own = [
            (scope.namespace, link)
            for scope, applications in self._links.items()
            if scope.tenant == tenant
            for links in applications.values()
            for link in links.values()
        ]
        of_node = [("", link) for link in self._node_links.values() if {"*", tenant} & {*link.tenants}]
        return own + of_node

    def states(self, tenant: str) -> list[LinkState]:
        """A tenant's links and how they fare, by namespace and name."""
        found = []
        for namespace, link in self.links_of(tenant):
            lane = self._lanes.get((Scope(tenant, namespace) if namespace else tenant, link.name))
            found.append(LinkState(namespace, link) if lane is None else lane.state(namespace))
        return sorted(found, key=lambda each: (each.namespace, each.link.name))

    def _find(self, scope: Scope, name: str) -> tuple[Link, Scope | str]:
        for links in self._links.get(scope, {}).values():
            if name in links:
                return links[name], scope
        if name in self._node_links:
            return self._node_links[name], scope.tenant
        raise NotFound(
            f"there is no link {name[:80]!r}: an application names its links in its configuration, as [links.NAME]",
            link=name[:80],
        )

    def lane(self, scope: Scope, name: str) -> _Lane:
        link, owner = self._find(scope, name)
        lane = self._lanes.get((owner, name))
        if lane is None:
            pool = Pool(link, loop=self._loop, dialler=self._dialler, contexts=self._contexts)
            lane = self._lanes[owner, name] = _Lane(self, pool)
        return lane

    # -- requests ------------------------------------------------------------------------------------------------

    async def fetch(self, call: Call, request: Request) -> Response:
        """Send a request and wait for the whole answer, whatever its status.

        Raises:
            NotFound: there is no such link, or a secret that it needs.
            PermissionDenied: the link, its methods and paths, or the address are not for this actor; `details` say
                which line of the configuration would allow it.
            InvalidArgument: a part of the request has no canonical form.
            DeadlineExceeded: no whole answer in time.
            RateLimited: too many requests; `details["retry_after_ms"]`.
            LimitExceeded: the request or its answer is too large.
            Unavailable: no connection, a broken answer, or an open circuit breaker.
        """
        reply = await self._run(call, request, whole=True)
        return Response(reply.status, reply.headers, reply.body)

    async def open(self, call: Call, request: Request) -> Body:
        """Send a request and wait for the head of its answer; the body is read piece by piece.

        The connection and the place among the link's concurrent requests are the answer's until it has ended, is
        closed, or its time is over.

        Raises: as for `fetch`.
        """
        reply = await self._run(call, request, whole=False)
        body = Body(self, reply)
        self.bodies.add(body)
        if self._closed:
            body.fail(Unavailable("the node stops: the answer is read no further"))
        return body

    async def _run(self, call: Call, request: Request, *, whole: bool) -> _Reply:
        if self._closed:
            raise Unavailable("the node stops: nothing leaves any more")
        errand = _Errand(self, call, request)
        if errand.ends_at <= self._loop.time():
            raise errand.expire()
        try:
            async with asyncio.timeout_at(errand.ends_at) as errand.limit:
                await self._flushed()
                return await errand.run(whole=whole)
        except TimeoutError:
            raise errand.expire() from None

    def chance(self) -> float:
        """From 0 to 1."""
        return int.from_bytes(self._ids.random_bytes(4)) / 2**32

    def inject(self, call: Call, link: Link, admitted: Admitted) -> tuple[Outgoing, Redactor]:
        """The request with its secrets, which still goes where it was allowed to go."""
        plain = admitted.outgoing(link)
        # Nothing that is secret travels in the open, but inside a network that the link names.
        phantoms = link.phantoms if link.base.scheme == "https" or link.addresses else _NO_PHANTOMS
        out, redactor = self._credentials.inject(call.scope, link.name, link.auth, phantoms, plain)
        if out.method != plain.method or out.url.partition("?")[0] != plain.url.partition("?")[0]:
            raise InternalError("a secret has changed where a request goes")
        for name, value in out.headers.items():
            check_header_value(name, value)
        if not out.url.isascii() or not out.url.isprintable() or " " in out.url:
            raise InvalidArgument(f"a secret of link {link.name!r} cannot stand in a query as it is")
        return out, redactor

    async def close(self) -> None:
        """Close every connection; bodies under way end with `Unavailable`."""
        self._closed = True
        for body in tuple(self.bodies):
            body.fail(Unavailable("the node stops: the answer is read no further"))
        for lane in self._lanes.values():
            lane.pool.close()
        self._lanes.clear()
        while self._closing:
            await asyncio.wait(self._closing)
        if self._resolver is not None:
            self._resolver.close()

    def closing(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a connection be closed by and by; the egress owns that."""
        task = self._loop.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Lane:
    """The budgets and connections of one link, for one namespace or tenant."""

    def __init__(self, egress: Egress, pool: Pool) -> None:
        link = pool.link
        self.pool = pool
        self.turns = Turns(link.concurrent_max)
        self._egress = egress
        self._under_way = 0
        self._requests = 0
        self._failures = 0
        self._breaker = Breaker(link.breaker_failures, round(link.breaker_open_s * 1e9))
        self._bucket = (
            Bucket(link.rate_per_s, link.rate_burst or max(1, round(link.rate_per_s))) if link.rate_per_s else None
        )

    def enter(self, scope: Scope) -> Permission:
        """Ask the circuit breaker; whoever gets a permission must `settle` it."""
        link = self.pool.link
        with self._watched(scope):
            verdict = self._breaker.admit(self._egress.clock.monotonic_ns())
        if isinstance(verdict, Permission):
            self._under_way += 1
            return verdict
        wait_ms = -(-verdict.wait_ns // 1_000_000) or 1_000
        raise Unavailable(
            f"the circuit breaker of link {link.name!r} is open, because the service kept failing: "
            f"try again in {wait_ms} ms",
            link=link.name,
            retry_after_ms=wait_ms,
        )

    def settle(self, scope: Scope, permission: Permission, signal: Signal) -> None:
        self._under_way -= 1
        self._requests += 1
        self._failures += signal is Signal.FAILED
        with self._watched(scope):
            self._breaker.settle(permission, signal, self._egress.clock.monotonic_ns())

    @contextmanager
    def _watched(self, scope: Scope) -> Iterator[None]:
        before = self._breaker.state
        yield
        if (after := self._breaker.state) is not before:
            self._egress.events.emit(BreakerChanged(scope, self.pool.link.name, before.value, after.value))

    def state(self, namespace: str) -> LinkState:
        """How the link fares."""
        return LinkState(
            namespace, self.pool.link, self._breaker.state.value, self._under_way, self._requests, self._failures
        )

    def token_in_ns(self) -> int:
        """Take a token of the rate limit: 0, or the nanoseconds until there is one."""
        return 0 if self._bucket is None else self._bucket.take(self._egress.clock.monotonic_ns())


@dataclass(slots=True)
class _Reply:
    """An answer whose head is here; with its body, or with what reads it.

    Attributes:
        headers: without secrets.
        body: the same, if the whole body was wanted.
    """

    errand: _Errand
    answer: Answer
    redactor: Redactor
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def status(self) -> int:
        return self.answer.status


class _Errand:
    """One request on its way, with all its attempts.

    Attributes:
        ends_at: by the loop's time.
        limit: the time limit that is running.
    """

    def __init__(self, egress: Egress, call: Call, request: Request) -> None:
        self.call = call
        self.link = egress.find(call.scope, request.link)
        self.limit: asyncio.Timeout | None = None
        self._egress = egress
        self._path = ""
        self._method = ""
        try:
            self._method = canonical_method(request.method)
            target = canonical_target(request.path)
            self._path = target.path
            check_user(self.link, call)
            self._admitted = admit(self.link, call, request, self._method, target)
        except PermissionDenied as error:
            self._refused(error.message)
            raise
        except InvalidArgument:
            # Its words may show the query.
            self._refused("the request has no canonical form")
            raise
        self.lane = egress.lane(call.scope, request.link)
        self._stage = "the disk"
        self._began_ns = egress.clock.monotonic_ns()
        limits_s = [self.link.total_timeout_s]
        if request.timeout_ms:
            limits_s.append(request.timeout_ms / 1e3)
        if call.deadline_ns:
            limits_s.append((call.deadline_ns - self._began_ns) / 1e9)
        self._time_s = min(limits_s)
        # Time that somebody else cut short says nothing about the service.
        self._time_is_the_links = self._time_s == self.link.total_timeout_s
        self.ends_at = asyncio.get_running_loop().time() + self._time_s

    def expire(self) -> DeadlineExceeded:
        """The error of a request whose time is over."""
        error = DeadlineExceeded(
            f"link {self.link.name!r}: no whole answer within {max(0.0, self._time_s):g} s, which ran out while it "
            f"waited for {self._stage}",
            link=self.link.name,
        )
        self._failed(error, self._began_ns)
        return error

    async def run(self, *, whole: bool) -> _Reply:
        """Attempt it until an answer is worth handing on, or no further attempt is worth making."""
        attempt = 0
        while True:
            attempt += 1
            reply: _Reply | None = None
            failure: _Failure | None = None
            try:
                reply = await self._attempt(attempt, whole)
            except _Failure as failed:
                failure = failed
            delay_s = retry_in_s(
                self.link,
                attempt=attempt,
                repeatable=self._admitted.repeatable,
                sent=failure is None or failure.sent,
                status=0 if reply is None else reply.status,
                retry_after_s=0.0 if reply is None else retry_after_s(reply.headers, self._egress.clock.now_ns()),
                left_s=self.ends_at - asyncio.get_running_loop().time(),
                chance=self._egress.chance(),
            )
            if delay_s is None:
                if reply is not None:
                    return reply
                assert failure is not None
                raise failure.error
            if reply is not None and not whole:
                await self.discard(reply.answer)
            self._stage = "the next attempt"
            await asyncio.sleep(delay_s)

    async def discard(self, answer: Answer) -> None:
        """Read no more of an answer whose body was not wanted whole."""
        try:
            await answer.aclose()
        finally:
            self.lane.turns.give()

    async def _attempt(self, attempt: int, whole: bool) -> _Reply:
        """An answer; of one that is read piece by piece, the turn is still taken."""
        self._stage = f"its turn: {self.lane.turns.turns_max} requests at once are the most (`concurrent_max`)"
        await self.lane.turns.take()
        kept = False
        try:
            permission = self.lane.enter(self.call.scope)
            signal = Signal.ABANDONED
            try:
                await self._take_token(attempt)
                self._stage = "the answer"
                reply = await self._exchange(attempt, whole)
                signal = Signal.FAILED if reply.status >= _FAULTY else Signal.SUCCEEDED
                kept = not whole
                return reply
            except _Failure:
                signal = Signal.FAILED
                raise
            except asyncio.CancelledError:
                if self._time_is_the_links and self.limit is not None and self.limit.expired():
                    signal = Signal.FAILED
                raise
            finally:
                self.lane.settle(self.call.scope, permission, signal)
        finally:
            if not kept:
                self.lane.turns.give()

    async def _take_token(self, attempt: int) -> None:
        while wait_ns := self.lane.token_in_ns():
            if attempt == 1:
                wait_ms = -(-wait_ns // 1_000_000)
                raise RateLimited(
                    f"link {self.link.name!r} takes {self.link.rate_per_s:g} requests a second: "
                    f"try again in {wait_ms} ms",
                    link=self.link.name,
                    retry_after_ms=wait_ms,
                )
            self._stage = "the rate limit"
            await asyncio.sleep(wait_ns / 1e9)

    async def _exchange(self, attempt: int, whole: bool) -> _Reply:
        """One request and its answer, redirects included."""
        admitted = self._admitted
        for _ in range(self.link.redirects_max + 1):
            answer, redactor, began_ns = await self._send(admitted, attempt)
            try:
                following = self._follow(admitted, answer)
                if following is None:
                    reply = await self._received(answer, redactor, began_ns, whole)
            except BaseException:
                await answer.aclose()
                raise
            if following is None:
                return reply
            await answer.aclose()
            admitted = following
        raise LimitExceeded(
            f"the service redirects more than {self.link.redirects_max} times",
            limit="redirects_max",
            value=self.link.redirects_max,
        )

    def _follow(self, admitted: Admitted, answer: Answer) -> Admitted | None:
        if not self.link.redirects_max:
            return None
        try:
            return redirects.follow(self.link, admitted, answer.status, answer.headers)
        except PermissionDenied as error:
            self._refused(error.message)
            raise

    async def _send(self, admitted: Admitted, attempt: int) -> tuple[Answer, Redactor, int]:
        egress, call, link = self._egress, self.call, self.link
        try:
            out, redactor = egress.inject(call, link, admitted)
        except PermissionDenied as error:
            self._refused(error.message)
            raise
        self._method, self._path = admitted.method, redactor.text(admitted.target.path)
        # What the request itself held came from the actor, not back from the service.
        redactor.found.clear()
        began_ns = egress.clock.monotonic_ns()
        egress.events.emit(
            EgressRequested(
                call.scope,
                call.actor,
                link.name,
                self._method,
                self._path,
                attempt,
                call.caller,
                call.message_id,
                call.trace,
            )
        )
        with self._failures(redactor, began_ns):
            return await self.lane.pool.send(out), redactor, began_ns

    async def _received(self, answer: Answer, redactor: Redactor, began_ns: int, whole: bool) -> _Reply:
        headers = {redactor.text(name): redactor.text(value) for name, value in answer.headers.items()}
        reply = _Reply(self, answer, redactor, headers)
        size = 0
        if whole:
            with self._failures(redactor, began_ns):
                body = b"".join([piece async for piece in answer.pieces()])
            await answer.aclose()
            size = len(body)
            reply.body = redactor.data(body)
        self._answered(answer.status, began_ns, size)
        self.report(redactor)
        return reply

    @contextmanager
    def _failures(self, redactor: Redactor, began_ns: int) -> Iterator[None]:
        """What the client raises as what the actor gets, and as events."""
        try:
            yield
        except Forbidden as error:
            self._refused(error.reason)
            raise PermissionDenied(str(error), link=self.link.name, allow=f"links.{self.link.name}.addresses") from None
        except LimitExceeded as error:
            self._failed(error, began_ns)
            raise
        except (NoConnection, Broken, Slow) as error:
            text = f"link {self.link.name!r}: {redactor.text(str(error))}"
            kind = DeadlineExceeded if isinstance(error, Slow) else Unavailable
            failure = kind(text, link=self.link.name)
            self._failed(failure, began_ns)
            raise _Failure(failure, sent=not isinstance(error, NoConnection)) from None

    # -- events --------------------------------------------------------------------------------------------------

    def report(self, redactor: Redactor) -> None:
        """Say which secrets came back, once."""
        if redactor.found:
            names = tuple(sorted(redactor.found))
            redactor.found.clear()
            self._egress.events.emit(SecretReflected(self.call.scope, self.call.actor, self.link.name, names))

    def _refused(self, reason: str) -> None:
        self._egress.events.emit(
            EgressRefused(self.call.scope, self.call.actor, self.link.name, self._method, self._path, reason)
        )

    def _answered(self, status: int, began_ns: int, size_bytes: int) -> None:
        call = self.call
        self._egress.events.emit(
            EgressAnswered(
                call.scope, call.actor, self.link.name, self._method, self._path, status, self._ms(began_ns), size_bytes
            )
        )

    def _failed(self, error: PlexSpacesError, began_ns: int) -> None:
        call = self.call
        self._egress.events.emit(
            EgressFailed(
                call.scope,
                call.actor,
                self.link.name,
                self._method,
                self._path,
                error.code,
                error.message,
                self._ms(began_ns),
            )
        )

    def _ms(self, began_ns: int) -> int:
        return (self._egress.clock.monotonic_ns() - began_ns) // 1_000_000


class _Failure(Exception):
    """An attempt brought no answer, and it is not the actor's fault.

    Attributes:
        error: what the actor gets if there is no further attempt.
        sent: something of the request may have arrived.
    """

    def __init__(self, error: PlexSpacesError, *, sent: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.sent = sent


class Body:
    """An answer whose body is read piece by piece.

    Attributes:
        status: of the answer.
        headers: by lower-case name, without secrets.
    """

    def __init__(self, egress: Egress, reply: _Reply) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._egress = egress
        self._errand = reply.errand
        self._answer = reply.answer
        self._redactor = reply.redactor
        self._pieces = reply.answer.pieces()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redacted = reply.redactor.stream()
        self._reading = False
        self._ended = False
        self._error: PlexSpacesError | None = None
        self._expiry = asyncio.get_running_loop().call_at(self._errand.ends_at, self._expire)

    async def read(self) -> str | None:
        """The next piece of text, which splits no character and no secret; None at the end.

        What is no UTF-8 becomes U+FFFD.  One reader at a time.

        Raises:
            DeadlineExceeded: the time for the whole answer is over.
            LimitExceeded: the answer is too large.
            Unavailable: it broke off, or the node stops.
        """
        if self._error is not None:
            raise self._error
        if self._ended:
            return None
        self._reading = True
        try:
            return await self._next()
        except (Broken, Slow, PlexSpacesError) as error:
            # Whoever closed it knows better than the connection why it is closed.
            if self._error is None:
                self._error = error if isinstance(error, PlexSpacesError) else self._broken(error)
            raise self._error from None
        except BaseException:
            # The reader was cancelled: half a piece may have been read, and nobody has it.
            self._ended = True
            raise
        finally:
            self._reading = False
            if self._error is not None or self._ended:
                self._release()

    async def _next(self) -> str | None:
        while True:
            piece = await anext(self._pieces, None)
            text = self._redacted.feed(self._decoder.decode(piece or b"", piece is None))
            if piece is None:
                text += self._redacted.finish()
                await self._answer.aclose()
                self._ended = True
            self._errand.report(self._redactor)
            if text or self._ended:
                return text or None

    def _broken(self, error: Broken | Slow) -> PlexSpacesError:
        name = self._errand.link.name
        kind = DeadlineExceeded if isinstance(error, Slow) else Unavailable
        return kind(f"link {name!r}: {self._redactor.text(str(error))}", link=name)

    def close(self) -> None:
        """Stop reading and free the connection; nothing happens when it is over already."""
        self._ended = True
        self._release()

    def fail(self, error: PlexSpacesError) -> None:
        """As `close`, and reading raises `error` from now on."""
        if not self._ended and self._error is None:
            self._error = error
            self._release()

    def _expire(self) -> None:
        self.fail(self._errand.expire())

    def _release(self) -> None:
        """Give back the connection and the turn; a read under way ends first."""
        self._expiry.cancel()
        if not self._answer.whole:
            self._answer.abort()
        if self._reading or self not in self._egress.bodies:
            return
        self._egress.bodies.remove(self)
        self._egress.closing(self._dispose())

    async def _dispose(self) -> None:
        try:
            await self._pieces.aclose()
        finally:
            await self._errand.discard(self._answer)
