"""Actors without wasm, network or disk: identity, mailbox, lifecycle, exits, links, groups, timers, registry, waits."""
