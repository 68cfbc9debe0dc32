"""Hooks of a context, which a copy of the model that is made inside it must not have."""

from collections.abc import Callable
from typing import Any


class Hook:
    """A forward hook that does nothing on copies of its module.

    Args:
        call: what is done on the module itself.
    """

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        """What a module's hook is given."""
        return self._call(*args)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Callable[..., None]:
        return _look_on


def _look_on(*_: Any) -> None:
    """Do nothing; a function of its own, so that copies can be pickled."""
