"""Takes out of a text what looks like a secret: nobody means to have a key remembered."""

from __future__ import annotations

import re

MARK = "[redacted]"
_PATTERNS = [
    re.compile(pattern)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"\bsk-[A-Za-z0-9_-]{16,}",
        r"\b(?:ghp|gho|ghu|ghs|ghr|github_pat)_[A-Za-z0-9_]{20,}",
        r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
        r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        r"\bAIza[0-9A-Za-z_-]{30,}",
        r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
        r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9+/_.=-]{16,}",
    )
]
_NAMED = re.compile(
    r"(?i)\b(password|passwd|secret|api[_ -]?key|access[_ -]?token|token)(\s*(?:is|=|:)\s*)"
    r"(\"[^\"]+\"|'[^']+'|[^\s,;]{4,})"
)


def redacted(text: str) -> tuple[str, int]:
    """The text without its secrets, and how many there were."""
    count = 0
    for pattern in _PATTERNS:
        text, found = pattern.subn(MARK, text)
        count += found

    def hide(match: re.Match[str]) -> str:
        return match[0] if MARK in match[3] else f"{match[1]}{match[2]}{MARK}"

    hidden = _NAMED.sub(hide, text)
    return hidden, count + (hidden != text)
