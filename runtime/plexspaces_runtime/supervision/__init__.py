"""Who is started again, when, and who is not."""
