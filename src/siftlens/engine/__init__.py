"""Where the work is done: on this machine, or on a Ray cluster; the results are the same."""

from siftlens.engine.choice import open_engine
from siftlens.engine.local import LocalEngine
from siftlens.engine.protocol import Engine, Work

__all__ = ["Engine", "LocalEngine", "Work", "open_engine"]
