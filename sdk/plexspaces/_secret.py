"""The annotation for arguments that an actor must not see, and the tokens that it sees in their place."""

from __future__ import annotations

from typing import NewType

Secret = NewType("Secret", str)
"""Text that is secret: `def connect(self, api_key: Secret)`.

Whoever sends the message gives the value.  The node keeps it, and hands the handler a phantom token instead: a text
that stands for the value where the node sends requests, see `host.register_credential`, and nowhere else.  It can be
stored, logged and passed on; if nobody registers it, it is forgotten an hour after the last message with the value.
"""
