"""The node: it runs sandboxed WebAssembly actors, one event loop for all of them."""

__version__ = "0.1.0"
