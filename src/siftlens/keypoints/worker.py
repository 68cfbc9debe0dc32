"""A process that decodes and detects beside others."""

import cv2

from siftlens.core.memory import keep_memory


def become_worker() -> None:
    """Set this process up to detect, image after image, while others do the same.

    OpenCV keeps to one thread, as more would only get into each other's way. Freed memory is kept for the next scale
    pyramid, which at 512 px saves a third of the time.
    """
    cv2.setNumThreads(1)
    keep_memory()
