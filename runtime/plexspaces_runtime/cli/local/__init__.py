"""A model and a node of one's own, for as long as a chat lasts: `plexspaces chat --local`."""

from .model import Engine, Keeper, find_engine
from .node import configured, local_node, running

__all__ = ["Engine", "Keeper", "configured", "find_engine", "local_node", "running"]
