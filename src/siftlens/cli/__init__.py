"""The command line: `siftlens analyze`, `siftlens demo`."""

from siftlens.cli.app import main

__all__ = ["main"]
