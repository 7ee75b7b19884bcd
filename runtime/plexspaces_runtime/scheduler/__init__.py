"""Who runs next, for how long, and where."""

from .offload import Offloader
from .scheduler import PENDING, GuestTrap, Scheduler

__all__ = ["PENDING", "GuestTrap", "Offloader", "Scheduler"]
