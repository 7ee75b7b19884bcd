"""The way to the models: whom to ask, what it may cost, what to do when they fail.

Each session has a router of its own, so that no session waits for another's answer.  What they share, budgets,
breakers, the cache and the names of credentials, is in the key-value store of the type and outlives them all.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from plexspaces import HostError, Refuse, Secret, actor, handler, host, init_handler, state

from . import breaker as circuit
from .budget import MICRO, Budgets, Exhausted
from .helpers import audit, cancel_wanted, key_of, publish
from .history import tokens
from .providers import Answer, Ask, ProviderError, anthropic, failure, openai, simulated
from .routing import Model, Routes

_KINDS = {"openai": openai, "anthropic": anthropic}
_DELTA_MS = 40
# Whether to go on is asked with each piece of text that is published, and where none is, after so many pieces.
_CANCEL_PIECES = 16
# Of all routers: limits that were set and credentials that were registered.
_SETTINGS = "settings"
_RETRY_AFTER_MS_MAX = 15_000
# Whose failure it is: these say something about the provider, the others about the request or the credential.
_PROVIDERS_FAULT = frozenset({"rate_limited", "overloaded", "timeout", "cut_off", "malformed", "provider_error"})


class _Cancelled(Exception):
    """The session's owner does not want the answer any more."""


@actor(facets=["virtual_actor", "durability"])
class LLMRouterActor:
    """Asks models.

    Args (in the application's configuration):
        providers: `[{name, kind: "openai" | "anthropic" | "simulated", link, path}]`.
        models: by name: `{provider, model, input_usd_per_million, output_usd_per_million, max_output_tokens}`.
        policy: `{cheap: [names], strong: [names], cheap_tokens_max}`, each the chain of whom to ask in turn.
        budgets: `{session_usd, day_usd, tenant_usd, session_tokens, day_tokens, tenant_tokens}`.
        retries_max, backoff_ms, call_timeout_ms, cache_ttl_s, breaker: `{failures_max, open_ms}`.
    """

    request_count: int = state(default=0)
    total_tokens: int = state(default=0)
    cache_hits: int = state(default=0)
    failures: int = state(default=0)

    @init_handler
    def on_init(self, config: dict) -> None:
        args = config.get("args", {})
        self.routes = Routes.read(args)
        self.budgets = Budgets(args.get("budgets", {}))
        self.rules = circuit.Rules(**args.get("breaker", {}))
        self.retries_max = int(args.get("retries_max", 2))
        self.backoff_ms = int(args.get("backoff_ms", 500))
        self.call_timeout_ms = int(args.get("call_timeout_ms", 120_000))
        self.cache_ttl_s = int(args.get("cache_ttl_s", 0))
        if not key_of(config["actor_id"]):
            host.process_groups.join("svc:llm_router")

    @handler("chat_completion")
    def chat_completion(
        self,
        messages: list,
        tools: list | None = None,
        model: str = "",
        session_id: str = "",
        stream: str = "",
        turn: int = 0,
        round: int = 0,
        max_tokens: int = 0,
        temperature: float | None = None,
        tool_choice: str = "",
        response_format: dict | None = None,
        phantom_token: str = "",
        force: str = "",
        session_budget: bool = True,
    ) -> dict:
        """An answer to a conversation, from the first model of the chain that gives one.

        Args:
            session_id, stream: whose budget it is, and the event stream that text is published on as it comes; "" for
                none, and for callers from outside.
            model: "" or "auto" lets the policy choose; a name asks that model and no other.
            force: "cheap" or "strong" instead of what the policy would choose.
            phantom_token: the credential to use, as it was registered; "" takes the link's own.
            session_budget: whether the session's budget counts beside the day's and the tenant's.
        """
        if problem := _wrong(messages):
            return {"error": "invalid_request", "message": problem}
        if not self.sender and self.context.subject and (session_id or stream):
            # Its text would stand in somebody's session, and its price be somebody's, without their saying so.
            audit(self, "access_refused", session_id, self.context.subject, reason="not-an-actor", stream=stream)
            raise Refuse(
                "not-an-actor", "session_id and stream are for actors that speak for a session: leave them out"
            )
        try:
            size = tokens(messages)
            chain = self.routes.chain(messages=messages, size=size, model=model, force=force)
        except KeyError:
            known = ", ".join(self.routes.models)
            return {"error": "invalid_request", "message": f"there is no model {model!r}; there are {known}"}
        self.request_count += 1
        self.budget_session = session_id if session_budget else ""
        self.settings = host.kv_get(_SETTINGS, {})
        asked = Ask(
            "", messages, tools or [], max_tokens, temperature, tool_choice, response_format, phantom_token, size
        )
        cache_key = self._cache_key(asked, chain)
        if cache_key and (kept := host.kv_get(cache_key)) is not None:
            self.cache_hits += 1
            published = _Published(stream, round, 1)
            published.add(kept["response"]["content"])
            published.finish()
            return {**kept, "cached": True, "cost_usd": 0.0, "attempts": 0}
        said: list[dict[str, Any]] = []
        attempts = 0
        for candidate in chain:
            outcome, tried = self._ask(candidate, asked, session_id, stream, round, attempts)
            attempts += tried
            if "error" not in outcome or outcome["error"] in ("budget_exhausted", "cancelled", "invalid_request"):
                return self._done(outcome, attempts, cache_key, session_id)
            said.append({"model": candidate.name, "error": outcome["error"], "message": outcome["message"]})
        self.failures += 1
        audit(self, "llm_failed", session_id, self.context.subject, tried=said)
        return _none_answered(said)

    def _done(self, outcome: dict, attempts: int, cache_key: str, session_id: str) -> dict:
        outcome["attempts"] = attempts
        if "error" in outcome:
            return outcome
        usage = outcome["usage"]
        self.total_tokens += usage["input_tokens"] + usage["output_tokens"]
        audit(
            self,
            "llm_completion",
            session_id,
            self.context.subject,
            model=outcome["model"],
            provider=outcome["provider"],
            usage=usage,
            cost_usd=outcome["cost_usd"],
        )
        if cache_key and outcome["response"]["stop_reason"] == "end_turn":
            host.kv_put(cache_key, outcome, ttl_ms=self.cache_ttl_s * 1_000)
        return outcome

    # -- one model --------------------------------------------------------------------------------------

    def _ask(
        self, model: Model, asked: Ask, session_id: str, stream: str, round_: int, before: int
    ) -> tuple[dict, int]:
        """Ask one model, again if that may help; the reply or an error, and how often it was asked."""
        name = model.provider.name
        attempt = 0
        while True:
            kept = host.kv_get(f"breaker/{name}")
            if not self._admitted(name, kept):
                return {
                    "error": "circuit_open",
                    "circuit_open": True,
                    "model": model.name,
                    "message": f"provider {name} has failed too often; it is tried again later",
                }, attempt
            attempt += 1
            try:
                reply = self._once(model, asked, session_id, stream, round_, before + attempt)
                if kept is not None and "error" not in reply:
                    host.kv_delete(f"breaker/{name}")
                return reply, attempt
            except ProviderError as error:
                if error.code in _PROVIDERS_FAULT:
                    self._count_failure(name)
                publish_to(
                    stream,
                    "model_failed",
                    {
                        "round": round_,
                        "attempt": before + attempt,
                        "model": model.name,
                        "code": error.code,
                        "message": error.message,
                    },
                )
                if not error.retryable or attempt > self.retries_max or error.retry_after_ms > _RETRY_AFTER_MS_MAX:
                    refused = {"error": error.code, "message": error.message, "model": model.name}
                    if error.retry_after_ms:
                        refused["retry_after_ms"] = error.retry_after_ms
                    return refused, attempt
                self._pause(attempt, error.retry_after_ms)
            except _Cancelled:
                return {"error": "cancelled", "message": "the turn was cancelled", "model": model.name}, attempt

    def _once(self, model: Model, asked: Ask, session_id: str, stream: str, round_: int, attempt: int) -> dict:
        output_max = min(asked.max_tokens or model.max_output_tokens, model.max_output_tokens)
        ask = Ask(
            model.provider_model,
            asked.messages,
            asked.tools,
            output_max,
            asked.temperature,
            asked.tool_choice,
            asked.response_format,
            asked.credential or self._credential(model),
        )
        estimate = asked.size + len(repr(ask.tools)) // 4 + 1
        reserved = self.budgets.reserve(
            self.budget_session,
            model.price.micro_usd(estimate, output_max),
            estimate + output_max if model.provider.link else 0,
            self.settings.get("limits"),
        )
        if isinstance(reserved, Exhausted):
            return {
                "error": "budget_exhausted",
                "budget": reserved.details(),
                "model": model.name,
                "message": f"the budget of this {reserved.scope} does not allow another call: {reserved.used:g} of "
                f"{reserved.limit:g} {reserved.unit} are spent or set aside",
            }
        published = _Published(stream, round_, attempt)
        try:
            answer = (
                simulated.answer(ask)
                if model.provider.kind == "simulated"
                else self._fetch(model, ask, session_id, published)
            )
        except (ProviderError, _Cancelled):
            # An answer that broke off is paid for as far as it came; what came of it is what we can count.
            said = tokens([{"content": published.text}]) if published.text else 0
            read = estimate if published.text else 0
            self.budgets.settle(reserved, model.price.micro_usd(read, said), read + said)
            raise
        if model.provider.kind == "simulated":
            published.add(answer.text)
        published.finish()
        counted = (answer.input_tokens or estimate, answer.output_tokens or tokens([{"content": answer.text}]) + 1)
        cost = model.price.micro_usd(*counted)
        self.budgets.settle(reserved, cost, sum(counted) if model.provider.link else 0)
        return _reply(model, answer, counted, cost)

    def _fetch(self, model: Model, ask: Ask, session_id: str, published: _Published) -> Answer:
        kind = _KINDS[model.provider.kind]
        path, headers, body = kind.request(ask)
        reader = kind.Reader()
        try:
            with host.http_stream(
                model.provider.link,
                "POST",
                model.provider.path or path,
                body,
                {"accept": "text/event-stream", **headers},
                timeout_ms=self.call_timeout_ms,
            ) as stream:
                if stream.status >= 400:
                    raise failure(stream.status, _some(stream), stream.headers)
                if "text/event-stream" not in stream.headers.get("content-type", ""):
                    for text in reader.whole("".join(stream)):
                        published.add(text)
                else:
                    for number, piece in enumerate(stream, 1):
                        shown = [published.add(text) for text in reader.feed(piece)]
                        if (any(shown) or not number % _CANCEL_PIECES) and cancel_wanted(session_id):
                            raise _Cancelled
                    for text in reader.finish():
                        published.add(text)
        except HostError as error:
            raise _of_link(error, model) from None
        return reader.answer()

    # -- what the routers share -------------------------------------------------------------------------

    def _credential(self, model: Model) -> str:
        kept: str = self.settings.get("credentials", {}).get(model.provider.link, "")
        return kept

    def _limits(self) -> dict[str, float]:
        limits: dict[str, float] = host.kv_get(_SETTINGS, {}).get("limits", {})
        return limits

    def _change_settings(self, part: str, **values: Any) -> None:
        """Change some of what all routers of the tenant go by; None takes a value out."""
        while True:
            before = host.kv_get(_SETTINGS)
            changed = {**(before or {}).get(part, {}), **values}
            kept = {name: value for name, value in changed.items() if value is not None}
            if host.kv_cas(_SETTINGS, before, {**(before or {}), part: kept}):
                return

    def _admitted(self, provider: str, kept: dict | None) -> bool:
        if kept is None:
            return True
        after, admitted = circuit.admit(circuit.Breaker.load(kept), host.now_ms(), self.rules)
        if admitted and after.kept() != kept:
            # Of two that want to try, the one that changes it is the one that does.
            return host.kv_cas(f"breaker/{provider}", kept, after.kept())
        return admitted

    def _count_failure(self, provider: str) -> None:
        for _ in range(8):
            kept = host.kv_get(f"breaker/{provider}")
            after = circuit.failed(circuit.Breaker.load(kept), host.now_ms(), self.rules)
            if host.kv_cas(f"breaker/{provider}", kept, after.kept()):
                if after.circuit is circuit.Circuit.OPEN:
                    audit(self, "circuit_opened", "", self.context.subject, provider=provider, failures=after.failures)
                return

    def _pause(self, attempt: int, retry_after_ms: int) -> None:
        # Full jitter: those that failed together do not come back together.
        chance = int.from_bytes(host.random_bytes(2), "big") / 65_535
        host.sleep(max(retry_after_ms, self.backoff_ms * 2 ** (attempt - 1) * chance) / 1_000)

    def _cache_key(self, asked: Ask, chain: list[Model]) -> str:
        if not self.cache_ttl_s or asked.temperature or asked.tools:
            return ""
        # Whoever asks is part of it: that somebody else has asked the same is nobody's business.
        what = [
            self.context.subject,
            [model.name for model in chain],
            asked.messages,
            asked.max_tokens,
            asked.response_format,
        ]
        return "cache/" + hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    # -- for those who operate it -----------------------------------------------------------------------

    @handler("register_credential", roles=["admin", "operator"])
    def register_credential(self, phantom_token: str, api_key: Secret, links: list | None = None) -> dict:
        """Put a provider's key into the node's vault.  The node has swapped it before this actor sees the message; from
        now on the phantom token stands for it, and is sent where a link has no credential of its own.

        Args:
            links: where it may be used; none given: the links of all providers.
        """
        wanted = links or sorted({model.provider.link for model in self.routes.models.values() if model.provider.link})
        if not phantom_token or not wanted:
            return {"error": "phantom_token and a provider with a link are required"}
        host.register_credential(phantom_token, api_key, wanted)
        self._change_settings("credentials", **dict.fromkeys(wanted, phantom_token))
        audit(self, "credential_registered", "", self.context.subject, links=wanted)
        return {"status": "ok", "phantom_token": phantom_token, "links": wanted}

    @handler("reset_circuit", roles=["admin", "operator"])
    def reset_circuit(self) -> dict:
        """Close all breakers."""
        for key in host.kv_list("breaker/"):
            host.kv_delete(key)
        return {"status": "ok", "circuit_open": False}

    @handler("set_budget", roles=["admin"])
    def set_budget(self, name: str, limit: float | None = None) -> dict:
        """Set one of the limits; none takes what the application declares."""
        if name.rpartition("_")[0] not in ("session", "day", "tenant") or name.rpartition("_")[2] not in (
            "usd",
            "tokens",
        ):
            return {"error": "name is session, day or tenant, '_', and usd or tokens"}
        self._change_settings("limits", **{name: limit})
        audit(self, "budget_set", "", self.context.subject, name=name, limit=limit)
        return {"status": "ok", "name": name, "limit": limit}

    @handler("get_budget")
    def get_budget(self, session_id: str = "") -> dict:
        """What is spent, and of how much: of the tenant, of today, and of a session."""
        return {"status": "ok", "budget": self.budgets.used(session_id, self._limits())}

    @handler("list_models")
    def list_models(self) -> dict:
        """The models there are, and the chains of the policy."""
        models = [
            {
                "name": each.name,
                "provider": each.provider.name,
                "simulated": each.provider.kind == "simulated",
                "input_usd_per_million": each.price.input_usd,
                "output_usd_per_million": each.price.output_usd,
            }
            for each in self.routes.models.values()
        ]
        return {"status": "ok", "models": models, "cheap": self.routes.cheap, "strong": self.routes.strong}

    @handler("get_stats")
    def get_stats(self) -> dict:
        """Counts, and the breakers that are not closed."""
        breakers = {key.partition("/")[2]: host.kv_get(key) for key in host.kv_list("breaker/")}
        return {
            "status": "ok",
            "request_count": self.request_count,
            "total_tokens": self.total_tokens,
            "cache_hits": self.cache_hits,
            "failures": self.failures,
            "breakers": breakers,
            "circuit_open": any(each and each["circuit"] != "closed" for each in breakers.values()),
            "model": (self.routes.strong or [""])[0],
        }


class _Published:
    """Text that goes onto a stream as it comes: the first piece at once, the rest in pieces of some milliseconds."""

    def __init__(self, path: str, round_: int, attempt: int) -> None:
        self.text = ""
        self._path = path
        self._round = round_
        self._attempt = attempt
        self._waiting = ""
        self._next_ms = 0

    def add(self, text: str) -> bool:
        """Take a piece; whether it was published at once, with what waited before it."""
        self.text += text
        if not self._path:
            return False
        self._waiting += text
        now_ms = host.now_ms()
        if now_ms < self._next_ms:
            return False
        self._next_ms = now_ms + _DELTA_MS
        self.finish()
        return True

    def finish(self) -> None:
        if self._waiting:
            publish_to(
                self._path, "text_delta", {"round": self._round, "attempt": self._attempt, "text": self._waiting}
            )
            self._waiting = ""


def publish_to(path: str, event_type: str, payload: dict[str, Any]) -> None:
    """Add to a stream that is given by its path."""
    if path.startswith("/sessions/"):
        publish(path.removeprefix("/sessions/"), event_type, payload)


def _wrong(messages: list) -> str:
    if not messages:
        return "messages are required"
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant", "tool"):
            return f"messages[{position}] is no message: role is system, user, assistant or tool"
        if not isinstance(message.get("content") or "", str):
            return f"messages[{position}].content is no text"
    return ""


def _reply(model: Model, answer: Answer, counted: tuple[int, int], cost: int) -> dict[str, Any]:
    return {
        "status": "ok",
        "response": {
            "role": "assistant",
            "stop_reason": answer.stop_reason,
            "content": answer.text,
            "tool_calls": answer.tool_calls,
        },
        "model": model.name,
        "provider": model.provider.name,
        "usage": {"input_tokens": counted[0], "output_tokens": counted[1]},
        "cost_usd": cost / MICRO,
        "cached": False,
        "simulated": model.provider.kind == "simulated",
    }


def _none_answered(said: list[dict[str, Any]]) -> dict[str, Any]:
    last = said[-1]
    text = "; ".join(f"{each['model']}: {each['message']}" for each in said)
    found: dict[str, Any] = {
        "error": last["error"] if len(said) == 1 else "no_provider",
        "message": text,
        "model": last["model"],
        "tried": said,
    }
    if any(each["error"] == "circuit_open" for each in said):
        found["circuit_open"] = True
    return found


def _some(stream: Any) -> str:
    """The beginning of an answer that is an error."""
    text = ""
    for piece in stream:
        text += piece
        if len(text) > 4_000:
            break
    return text


def _of_link(error: HostError, model: Model) -> ProviderError:
    """What a failure of the way out means for a call to a model."""
    match error.code:
        case "deadline-exceeded":
            return ProviderError("timeout", "the provider took too long", retryable=True)
        case "unavailable":
            return ProviderError("overloaded", error.message, retryable=True)
        case "rate-limited":
            return ProviderError(
                "rate_limited",
                error.message,
                retryable=True,
                retry_after_ms=int(error.details.get("retry_after_ms", 0)),
            )
        case "not-found" | "permission-denied":
            return ProviderError("not_configured", error.message, retryable=False)
        case "limit-exceeded":
            return ProviderError("malformed", error.message, retryable=False)
    return ProviderError("provider_error", error.message, retryable=False)
