"""Actors without wasm, network or disk: identity, mailbox, lifecycle, exits, registry, deadlines, waits."""
