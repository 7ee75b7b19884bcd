"""MiniClaw: an agent system as supervised actors, written against the PlexSpaces SDK alone."""
