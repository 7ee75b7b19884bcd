"""`links`: the ways out of the tenant's actors, and how they fare."""

from __future__ import annotations

import click

from ..client import NodeClient
from ..output import Cell, json_option, json_wanted, show_json, show_table

_COLOURS = {"closed": "green", "half-open": "yellow", "open": "red"}


@click.command()
@json_option
def links() -> None:
    """List the links: where each leads, what it lets through, and how it fares.

    BREAKER is closed while all is well, open while the node refuses requests because the service kept failing, and
    half-open while it tries.  Secrets are named and never shown.
    """
    found = NodeClient().call("GET", "/api/v1/links")
    if json_wanted():
        show_json(found)
        return
    rows: list[list[str | Cell]] = [
        [
            str(each["name"]),
            str(each["namespace"]) or "(node)",
            str(each["base_url"]),
            ", ".join(map(str, each["secrets"])) or "-",
            Cell(str(each["breaker"]), _COLOURS.get(str(each["breaker"]), "")),
            str(each["requests"]),
            str(each["failures"]),
            ", ".join(map(str, each["allow"])),
        ]
        for each in found["links"]
    ]
    headings = ("NAME", "NAMESPACE", "LEADS TO", "SECRETS", "BREAKER", "REQUESTS", "FAILURES", "ALLOWS")
    show_table(headings, rows, empty="no links: an application names its ways out as [links.NAME]")
