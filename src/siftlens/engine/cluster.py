"""A Ray cluster for a while: a running one, or one of this machine's cores. Ray tells nobody, and prints nothing."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from siftlens.core import InputError

# Heeded when Ray is imported and started: no report of usage to its authors, no line about a process that died, and
# the priority of the local engine's processes, where Ray's own would get next to nothing beside other work.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".*", "RAY_worker_niceness": "0"}
_PATIENCE = 10.0  # s, for an answer


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster while inside; one that the caller is connected to already is used and left as it is.

    Args:
        address: of a running cluster, "auto" for the one on this machine; None starts one and ends it.

    Raises:
        InputError: Ray is not installed; no cluster is there, or none can be started.
    """
    with _environment(_SETTINGS):
        try:
            import ray
        except ImportError as error:
            raise InputError("the Ray engine needs Ray: pip install 'siftlens[scale]'") from error
        if ray.is_initialized():
            yield
            return
        try:
            _knock(address)
            ray.init(
                address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=None if address else False,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            where = f"at {address}; start one there: ray start --head" if address else "on this machine"
            raise InputError(f"no Ray cluster {where} ({first})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Fail at once where nobody answers; Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables while inside; what the user set stays."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
