"""A Ray cluster for a while: a running one, or one of this machine's cores. Ray tells nobody, and prints nothing."""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siftlens.core import InputError

# Heeded when Ray is imported and started: no report of usage to its authors, no line about a process that died, and
# the priority of the local engine's processes, where Ray's own would get next to nothing beside other work.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".*", "RAY_worker_niceness": "0"}
_REMEDY = "start one there: ray start --head, or copy its ~/.ray/auth_token to here if it asks for one"
_PATIENCE = 10.0  # s, for an answer
# What opens a talk by HTTP/2, which Ray's processes speak with each other, and begins its answer: a frame of settings.
_SETTINGS_FRAME = b"\x04"
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS_FRAME + bytes(5)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster while inside; one that the caller is connected to already is used and left as it is.

    Args:
        address: of a running cluster, "auto" for the one on this machine; None starts one and ends it.

    Raises:
        InputError: Ray is not installed; no cluster is there, or none can be started.
    """
    if address is not None and not address.strip():
        raise InputError("the address of the Ray cluster is empty; name one as HEAD:6379, or auto, or leave it out")
    with _environment(_SETTINGS | _token(address)):
        try:
            import ray
        except ImportError as error:
            raise InputError("the Ray engine needs Ray: pip install 'siftlens[scale]'") from error
        if ray.is_initialized():
            yield
            return
        try:
            _knock(_announced() if address == "auto" else address)
            ray.init(
                address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=None if address else False,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            where = f"at {address} that lets us in ({first}); {_REMEDY}" if address else f"on this machine ({first})"
            raise InputError(f"no Ray cluster {where}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _token(address: str | None) -> dict[str, str]:
    """Show this user's token where there is one: by itself Ray does so where it found the address."""
    kept = Path.home() / ".ray" / "auth_token"
    has_token = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or kept.exists()
    return {"RAY_AUTH_MODE": "token"} if address and has_token else {}


def _announced() -> str | None:
    """The cluster that "auto" stands for, where no running one is seen; it may have been killed since."""
    import ray._private.services

    told = os.environ.get("RAY_ADDRESS")
    if told or ray._private.services.find_gcs_addresses():
        return told
    file = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "ray_current_cluster")
    return file.read_text().strip() if file.is_file() else None


def _knock(address: str | None) -> None:
    """Fail at once where nobody answers, or somebody else; Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    with socket.create_connection((host, int(port)), timeout=_PATIENCE) as there:
        if os.environ.get("RAY_USE_TLS") == "1":  # encrypted from the first byte
            return
        there.sendall(_GREETING)
        if there.recv(9)[3:4] != _SETTINGS_FRAME:
            raise ConnectionError("what answers there is no Ray")


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
