"""What is done to a model at inference, as values: they can be compared, written down and read back.

A policy has up to four parts, which act in this order: pixels are masked, tokens chosen, attention biased, and the
logits of a view that shows only the cue taken off. Each reads the same map, a number per patch, higher = keep.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from siftlens.core import InputError, is_real, is_whole

FILLS = ("blur", "mean")
_INDICES = ("layers", "heads", "rows")
_STRONGEST = 100.0  # exp(100): nothing else is left
_LARGEST = 1e300


@dataclass(frozen=True)
class Bias:
    """Attention moved: softmax(q.k * s + beta * g_j), where g is the map on patches and 0 on prefix tokens.

    Key j's weight is multiplied by exp(beta g_j) and the row made to sum to one again.

    Args:
        strength: beta, in [-100, 100]; 0 is the model as it is.
        layers: in call order, from 0; None for all.
        heads: of these layers, from 0; None for all. With neither chosen, attention pooling heads are moved too.

    Raises:
        InputError: a value is not one of those.
    """

    strength: float
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    def __post_init__(self) -> None:
        _keep_strength(self, -_STRONGEST)
        for name in ("layers", "heads"):
            _keep_indices(self, name)


@dataclass(frozen=True)
class TokenChoice:
    """Patches dropped before the first block: the sequence gets shorter.

    Args:
        keep: share of the patches, in (0, 1]: those of the highest map; of equal ones, some by lot, always the same.

    Raises:
        InputError: another share.
    """

    keep: float

    def __post_init__(self) -> None:
        _keep_share(self, "keep", "0 drops every patch")


@dataclass(frozen=True)
class PixelMask:
    """Pixels of patches painted over before the model sees them; none of an image whose map is the same everywhere.

    Args:
        keep: share of the patches that stay, in (0, 1]: those of the highest map.
        fill: "blur", the means of the patches, interpolated; or "mean", the mean colour of the image.

    Raises:
        InputError: another share or filling.
    """

    keep: float
    fill: str = "blur"

    def __post_init__(self) -> None:
        _keep_share(self, "keep", "0 masks the whole image")
        if self.fill not in FILLS:
            raise InputError(f"PixelMask.fill must be one of {', '.join(FILLS)}, got {self.fill!r}")


@dataclass(frozen=True)
class Contrast:
    """What the cue alone says, taken off: z_full - lambda * z_cue, where z is the log-softmax of the logits.

    An image whose map is the same everywhere shows no cue, and keeps z_full.

    Args:
        strength: lambda, in [0, 100]; 0 is the model as it is.
        view: share of the patches that the cue-only view keeps, in (0, 1]: those of the lowest map.

    Raises:
        InputError: another value.
    """

    strength: float
    view: float

    def __post_init__(self) -> None:
        _keep_strength(self, 0.0)
        _keep_share(self, "view", "0 shows nothing")


@dataclass(frozen=True)
class Mixture:
    """Where a prompted model's maps come from: a weighted mean of maps, each higher where to keep.

    Args:
        keypoints: weight of log(1 + keypoints in the patch), over its largest value in the image.
        centre: weight of a Gaussian of a quarter of the image's sides.
        gradient: weight of the root mean square gradient, over its largest value in the image.
        cues: weight of -1 on the patches of an audit's cues, 0 elsewhere: a bias then leaves other tokens as they are.
        rows: which cues, by their rows in `Audit.cues`; None for those that do harm.

    Raises:
        InputError: a weight is negative or not finite, or all are 0; a negative row.
    """

    keypoints: float = 0.0
    centre: float = 0.0
    gradient: float = 0.0
    cues: float = 0.0
    rows: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not (_is_number(weight) and weight >= 0):
                raise InputError(f"Mixture.{name} must be a finite weight of at least 0, got {weight!r}")
            object.__setattr__(self, name, _plain(weight))
        if not any(self.weights.values()):
            raise InputError(f"Mixture needs a weight above 0 on one of {', '.join(self.weights)}")
        _keep_indices(self, "rows")

    @property
    def weights(self) -> dict[str, float]:
        """The weights by name."""
        return {name: getattr(self, name) for name in ("keypoints", "centre", "gradient", "cues")}


@dataclass(frozen=True)
class Policy:
    """What is done to a model at inference. The parts compose; without any, nothing is done.

    Args:
        bias: attention biases, added up: several, for heads that differ from layer to layer.
        tokens: which patches are dropped.
        pixels: which patches are painted over.
        contrast: what is taken off the logits.
        maps: where `siftlens.prompted` takes its maps from; `siftlens.prompt` is given them.

    Example:
        >>> policy = Policy(bias=(Bias(2.0, layers=(8, 9, 10)),), contrast=Contrast(0.5, view=0.25))
        >>> Policy.from_json(policy.to_json()) == policy
        True
    """

    bias: tuple[Bias, ...] = ()
    tokens: TokenChoice | None = None
    pixels: PixelMask | None = None
    contrast: Contrast | None = None
    maps: Mixture = field(default_factory=lambda: Mixture(keypoints=1.0))

    def __post_init__(self) -> None:
        parts = tuple(self.bias) if isinstance(self.bias, Iterable) else (self.bias,)
        if not isinstance(self.bias, Iterable) or not all(isinstance(part, Bias) for part in parts):
            raise InputError(f"Policy.bias must be a tuple of Bias, such as (Bias(3.0),), got {self.bias!r}")
        object.__setattr__(self, "bias", parts)
        for name, kind in (("tokens", TokenChoice), ("pixels", PixelMask), ("contrast", Contrast)):
            part = getattr(self, name)
            if not (part is None or isinstance(part, kind)):
                raise InputError(f"Policy.{name} must be a {kind.__name__} or None, got {part!r}")
        if not isinstance(self.maps, Mixture):
            raise InputError(f"Policy.maps must be a Mixture, got {self.maps!r}")

    @classmethod
    def identity(cls) -> "Policy":
        """The policy that does nothing."""
        return cls()

    @property
    def does_nothing(self) -> bool:
        """Whether a model under this policy computes, bit for bit, what it computes without it."""
        return not (self.biased or self.chooses or self.masks or self.contrasts)

    @property
    def biased(self) -> bool:
        """Whether any attention is moved."""
        return any(part.strength for part in self.bias)

    @property
    def chooses(self) -> bool:
        """Whether tokens are dropped."""
        return self.tokens is not None and self.tokens.keep < 1

    @property
    def masks(self) -> bool:
        """Whether pixels are painted over."""
        return self.pixels is not None and self.pixels.keep < 1

    @property
    def contrasts(self) -> bool:
        """Whether logits are contrasted."""
        return self.contrast is not None and self.contrast.strength > 0

    def to_json(self) -> str:
        """The policy as JSON text."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in (None, ())})

    @classmethod
    def from_json(cls, text: str) -> "Policy":
        """Read what `to_json` wrote.

        Raises:
            InputError: no JSON object, an unknown name, or a value out of range.
        """
        try:
            given = json.loads(text)
        except TypeError as error:
            raise InputError(f"a policy must be JSON text, got {type(text).__name__}") from error
        except (ValueError, RecursionError) as error:  # ValueError: also of numbers of thousands of digits
            raise InputError(f"a policy must be JSON: {error}; got {text[:60]!r}") from error
        _expect_names("a policy", given, [part.name for part in fields(cls)])
        biases = given.get("bias", [])
        if not isinstance(biases, list):
            raise InputError(f"bias must be a list of objects, got {biases!r}")
        parts: dict[str, Any] = {"bias": tuple(_part("bias", Bias, bias) for bias in biases)}
        kinds = {"tokens": TokenChoice, "pixels": PixelMask, "contrast": Contrast, "maps": Mixture}
        return cls(**parts | {name: _part(name, kind, given[name]) for name, kind in kinds.items() if name in given})


def _part(name: str, kind: Any, given: Any) -> Any:
    """One part from what JSON holds of it."""
    known = {part.name: part for part in fields(kind)}
    _expect_names(name, given, list(known))
    missing = [part.name for part in known.values() if part.default is MISSING and part.name not in given]
    if missing:
        raise InputError(f"{name} needs {', '.join(missing)}, got {', '.join(given) or 'nothing'}")
    for key, value in given.items():
        if key == "fill":
            right, expected = isinstance(value, str), f"one of {', '.join(FILLS)}"
        elif key in _INDICES:
            right, expected = value is None or _are_indices(value), "a list of indices"
        else:
            right, expected = _is_number(value), "a number"
        if not right:
            raise InputError(f"{name}.{key} must be {expected}, got {value!r}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})


def _expect_names(what: str, given: Any, names: list[str]) -> None:
    if not isinstance(given, dict):
        raise InputError(f"{what} must be a JSON object of {', '.join(names)}, got {given!r}")
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise InputError(f"{what} may hold {', '.join(names)}, got {', '.join(unknown)}")


def _are_indices(value: Any) -> bool:
    return isinstance(value, list) and all(type(index) is int for index in value)


def _is_number(value: Any) -> bool:
    """Python's own or NumPy's, and no integer that is too large for a float."""
    return is_real(value) and -_LARGEST < value < _LARGEST


def _plain(value: Any) -> float:
    """NumPy's numbers as Python's, which JSON can hold."""
    return value if isinstance(value, int) else float(value)


def _keep_strength(part: Any, lowest: float) -> None:
    value = part.strength
    if not (_is_number(value) and lowest <= value <= _STRONGEST):
        kind = type(part).__name__
        raise InputError(f"{kind}.strength must lie in [{lowest:g}, {_STRONGEST:g}], got {value!r}")
    object.__setattr__(part, "strength", _plain(value))


def _keep_share(part: Any, name: str, why: str) -> None:
    value = getattr(part, name)
    if not (_is_number(value) and 0 < value <= 1):
        kind = type(part).__name__
        raise InputError(f"{kind}.{name} must be a share of the patches in (0, 1], got {value!r}; {why}")
    object.__setattr__(part, name, _plain(value))


def _keep_indices(part: Any, name: str) -> None:
    """Keep indices as a tuple in order, so that equal choices are equal values."""
    value = getattr(part, name)
    if value is None:
        return
    indices = list(value) if isinstance(value, Iterable) else []
    if not indices or not all(is_whole(index, least=0) for index in indices):
        kind = type(part).__name__
        raise InputError(f"{kind}.{name} must be None or at least one index from 0, got {value!r}")
    object.__setattr__(part, name, tuple(sorted({int(index) for index in indices})))
