"""The edge: HTTP in, authentication, one table of errors out.  It decides nothing about actors."""
