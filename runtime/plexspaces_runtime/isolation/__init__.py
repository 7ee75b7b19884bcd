"""What keeps code that has broken out of its sandbox from getting anywhere: a process of its own, fewer rights."""
