"""Which models are asked, in which order: what the caller forces, else a policy that the application declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .budget import Price

SIMULATED = "miniclaw-simulated-v1"


@dataclass(frozen=True)
class Provider:
    """Who answers.

    Attributes:
        kind: `openai` (and all that speak like it), `anthropic` or `simulated`.
        link: the service link to it.
    """

    name: str
    kind: str
    link: str = ""
    path: str = ""


@dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        provider_model: what its provider calls it.
    """

    name: str
    provider: Provider
    provider_model: str
    price: Price
    max_output_tokens: int = 1024


@dataclass(frozen=True)
class Routes:
    """All models, and the chains of the policy."""

    models: dict[str, Model]
    cheap: list[str] = field(default_factory=list)
    strong: list[str] = field(default_factory=list)
    cheap_tokens_max: int = 500

    @classmethod
    def read(cls, args: dict[str, Any]) -> Routes:
        """From the router's arguments.

        Raises:
            ValueError: they contradict themselves; the message says where.
        """
        providers = {
            each["name"]: Provider(each["name"], each["kind"], each.get("link", ""), each.get("path", ""))
            for each in args.get("providers", [])
        }
        for provider in providers.values():
            if provider.kind not in ("openai", "anthropic", "simulated"):
                raise ValueError(f"provider {provider.name!r}: kind is openai, anthropic or simulated")
            if provider.kind != "simulated" and not provider.link:
                raise ValueError(f"provider {provider.name!r} needs a link")
        simulated = Provider("simulated", "simulated")
        models = {SIMULATED: Model(SIMULATED, simulated, SIMULATED, Price())}
        for name, each in args.get("models", {}).items():
            provider = providers.get(each["provider"])
            if provider is None:
                raise ValueError(f"model {name!r}: there is no provider {each['provider']!r}")
            price = Price(each.get("input_usd_per_million", 0.0), each.get("output_usd_per_million", 0.0))
            models[name] = Model(name, provider, each.get("model", name), price, each.get("max_output_tokens", 1024))
        policy = args.get("policy", {})
        chains = {kind: list(policy.get(kind, [SIMULATED])) for kind in ("cheap", "strong")}
        for kind, chain in chains.items():
            for name in chain:
                if name not in models:
                    raise ValueError(f"policy.{kind}: there is no model {name!r}")
        return cls(models, chains["cheap"], chains["strong"], policy.get("cheap_tokens_max", 500))

    def chain(self, *, messages: list[dict[str, Any]], size: int, model: str = "", force: str = "") -> list[Model]:
        """The models to ask, the first one first.

        Args:
            size: of the messages, in tokens.
            model: by name: this one and nothing else.
            force: `cheap` or `strong`, instead of what the policy would choose.

        Raises:
            KeyError: there is no such model.
        """
        if model and model != "auto":
            return [self.models[model]]
        short = size <= self.cheap_tokens_max and not any(each["role"] == "tool" for each in messages)
        cheap = force == "cheap" or (force != "strong" and short)
        return [self.models[name] for name in (self.cheap if cheap else self.strong)]
