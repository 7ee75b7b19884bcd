"""Deployed components: which code answers to which actor type."""
