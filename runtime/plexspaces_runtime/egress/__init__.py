"""The one way out of a node: service links, the secrets they carry, and the client that follows them."""
