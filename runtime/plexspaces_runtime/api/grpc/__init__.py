"""The gRPC door: the operations of the HTTP API, by the messages of proto/plexspaces/v1."""
