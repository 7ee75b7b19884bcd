"""Whether a request is sent again, and when: exponential back-off with full jitter.

The formula is that of Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from .links import Link

# RFC 9110, section 9.2.2.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
# Answers that another attempt may better: too many, and those of a gateway whose service does not answer.
_PASSING: Final = frozenset({429, 502, 503, 504})
_RETRY_AFTER_S_MAX: Final = 10.0**9


def retry_in_s(
    link: Link,
    *,
    attempt: int,
    repeatable: bool,
    sent: bool,
    status: int,
    retry_after_s: float,
    left_s: float,
    chance: float,
) -> float | None:
    """Seconds to wait before the next attempt; None if there is to be none.

    Args:
        attempt: the one that is over, 1 for the first.
        repeatable: doing it twice is doing it once.
        sent: something of the request has left.
        status: of the answer; 0 if there was none.
        retry_after_s: what the answer asks for; 0 if it does not.
        left_s: until the request's deadline.
        chance: from 0 to 1.
    """
    if attempt > link.retries_max or (status and status not in _PASSING) or (sent and not repeatable):
        return None
    backoff_s = min(link.backoff_max_s, link.backoff_initial_s * 2 ** (attempt - 1))
    wait_s = max(chance * backoff_s, retry_after_s)
    return wait_s if wait_s < left_s else None


def retry_after_s(headers: Mapping[str, str], now_ns: int) -> float:
    """What the header Retry-After says (RFC 9110, section 10.2.3): seconds, or a date; 0 if it says nothing."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _RETRY_AFTER_S_MAX)
    try:
        date = parsedate_to_datetime(text)
        # A date without a zone is in UTC, as every date of HTTP.
        at_s = date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return 0.0
    return max(0.0, at_s - now_ns / 1e9)
