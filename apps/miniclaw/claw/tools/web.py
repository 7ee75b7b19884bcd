"""Tools that ask the world: each through service links that the operator has named, and through nothing else."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, urlencode

from plexspaces import HostError, actor, handler, host, init_handler

_BODY_CHARS_MAX = 12_000
_TAGS = re.compile(r"(?s)<(script|style)\b.*?</\1>|<[^>]{0,2000}>")


def _get(link: str, path: str, what: str) -> tuple[str, str]:
    """The body of an answer and "", or "" and what went wrong, in words for a model."""
    try:
        response = host.http_fetch(link, "GET", path)
    except HostError as error:
        if error.code == "not-found":
            return "", f"{what} is not configured here: the operator has to declare a link [links.{link}]"
        return "", f"{what} did not answer: {error.message}"
    if response.status >= 400:
        return "", f"{what} answered with status {response.status}"
    return response.text, ""


@actor(facets=["virtual_actor"])
class WeatherToolActor:
    """The tool `weather`: the service behind its link answers as wttr.in does (`/PLACE?format=j1`)."""

    @init_handler
    def on_init(self, config: dict) -> None:
        self.link = config.get("args", {}).get("link", "weather")

    @handler("execute")
    def execute(self, location: str) -> dict:
        """The weather at a place now."""
        text, failed = _get(self.link, f"/{quote(location.strip()[:100], safe='')}?format=j1", "the weather service")
        if failed:
            return {"error": failed}
        try:
            now = json.loads(text)["current_condition"][0]
            return {
                "result": {
                    "location": location,
                    "temperature_c": float(now["temp_C"]),
                    "condition": now["weatherDesc"][0]["value"].strip(),
                    "humidity_percent": int(now["humidity"]),
                    "wind_kmh": float(now["windspeedKmph"]),
                }
            }
        except (ValueError, KeyError, IndexError, TypeError):
            return {"error": "the weather service answered with something else than the weather"}


@actor(facets=["virtual_actor"])
class WebSearchToolActor:
    """The tool `web_search`: the service behind its link answers as SearXNG does (`/search?q=...&format=json`)."""

    @init_handler
    def on_init(self, config: dict) -> None:
        self.link = config.get("args", {}).get("link", "search")

    @handler("execute")
    def execute(self, query: str, limit: int = 5) -> dict:
        """What the web says."""
        text, failed = _get(self.link, "/search?" + urlencode({"q": query[:400], "format": "json"}), "the web search")
        if failed:
            return {"error": failed}
        try:
            found = json.loads(text)["results"][: max(1, min(limit, 10))]
            return {"result": [_shown(each) for each in found]}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"error": "the web search answered with something else than results"}


def _shown(found: dict[str, Any]) -> dict[str, str]:
    return {
        "title": str(found.get("title", ""))[:200],
        "url": str(found.get("url", ""))[:500],
        "snippet": str(found.get("content", ""))[:500],
    }


@actor(facets=["virtual_actor"])
class HttpGetToolActor:
    """The tool `http_get`: pages of the links that the operator lists, and of no other.

    Args (in the application's configuration):
        links: their names.
    """

    @init_handler
    def on_init(self, config: dict) -> None:
        self.links = list(config.get("args", {}).get("links", []))

    @handler("execute")
    def execute(self, link: str, path: str = "/") -> dict:
        """A page's text."""
        if link not in self.links:
            allowed = ", ".join(self.links) or "none"
            return {"error": f"link {link[:100]!r} is not allowed; allowed are: {allowed}"}
        text, failed = _get(link, path, f"link {link}")
        if failed:
            return {"error": failed}
        if text.lstrip()[:1] == "<":
            text = re.sub(r"\s+", " ", _TAGS.sub(" ", text)).strip()
        return {"result": text[:_BODY_CHARS_MAX]}
