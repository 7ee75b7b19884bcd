"""What a guest may ask for: one module per WIT interface, of the same name."""

from .gate import Host

__all__ = ["Host"]
