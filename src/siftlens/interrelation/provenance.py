"""With what an analysis was run."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from loky import cpu_count

_PACKAGES = (
    "siftlens",
    "torch",
    "timm",
    "transformers",
    "torchvision",
    "open_clip_torch",
    "opencv-python-headless",
    "numpy",
    "pandas",
    "xarray",
    "pillow",
)


def versions() -> dict[str, str]:
    """Versions of Python and of every package whose code has a say in the numbers, where installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """What the analysis runs on."""
    known: dict[str, Any] = {
        "device": str(device),
        "processor": _processor(),
        "cores": cpu_count(),  # that this process may use
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }
    if device.type == "cuda":
        known["gpu"] = torch.cuda.get_device_name(device)
    return known


def _processor() -> str:
    """Model name of the processor, where the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
