"""What outlives an actor: one ordered stream of writes, and the stores on it."""
