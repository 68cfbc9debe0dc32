"""Read a vision transformer's self-attention through SIFT keypoints.

Names are loaded when first used, so that `import siftlens` stays fast and pulls in neither torch nor OpenCV.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siftlens.attention import attention_maps, read_attention
    from siftlens.core import (
        CaptureError,
        InputError,
        ModelError,
        NothingReadableError,
        PatchGrid,
        SiftlensError,
        StudyError,
        TokenLayout,
    )
    from siftlens.keypoints import Keypoints, detect
    from siftlens.models import load_model
    from siftlens.patchmaps import concentration
    from siftlens.prompting import Policy, load_prompted, prompt, prompted, tune_prompt
    from siftlens.study import Audit, Study, analyze, audit, compare, load_audit, load_study, try_prompt

__version__ = "0.1.0"

_HOME = {
    "attention": ["attention_maps", "read_attention"],
    "core": [
        "CaptureError",
        "InputError",
        "ModelError",
        "NothingReadableError",
        "PatchGrid",
        "SiftlensError",
        "StudyError",
        "TokenLayout",
    ],
    "keypoints": ["Keypoints", "detect"],
    "models": ["load_model"],
    "patchmaps": ["concentration"],
    "prompting": ["Policy", "load_prompted", "prompt", "prompted", "tune_prompt"],
    "study": ["Audit", "Study", "analyze", "audit", "compare", "load_audit", "load_study", "try_prompt"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Audit",
    "CaptureError",
    "InputError",
    "Keypoints",
    "ModelError",
    "NothingReadableError",
    "PatchGrid",
    "Policy",
    "SiftlensError",
    "Study",
    "StudyError",
    "TokenLayout",
    "analyze",
    "attention_maps",
    "audit",
    "compare",
    "concentration",
    "detect",
    "load_audit",
    "load_model",
    "load_prompted",
    "load_study",
    "prompt",
    "prompted",
    "read_attention",
    "try_prompt",
    "tune_prompt",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'siftlens' has no attribute {name!r}")
    return getattr(import_module(f"siftlens.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
