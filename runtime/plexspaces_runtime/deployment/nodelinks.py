"""The links of the node's own file: for actors of every tenant, or of those that they name."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import ConfigError, LinkTable
from ..egress.links import Link, LinkIssues, parse_link


def node_links(tables: Mapping[str, LinkTable]) -> dict[str, Link]:
    """Read them.

    Raises:
        ConfigError: with everything that is wrong with any of them, each with its line.
    """
    links: dict[str, Link] = {}
    issues: list[str] = []
    for name, table in tables.items():
        try:
            links[name] = parse_link(name, table.content)
        except LinkIssues as wrong:
            for issue in wrong.issues:
                place = table.places.get(str(issue.path[0]) if issue.path else "", table.places[""])
                issues.append(f"{place}: links.{'.'.join((name, *map(str, issue.path)))}: {issue.text}")
    if issues:
        raise ConfigError(issues)
    return links
