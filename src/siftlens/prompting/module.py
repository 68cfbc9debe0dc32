"""`prompted`: a model under a policy for good, as a module that computes its own maps."""

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from siftlens.attention.session import expect_no_pass_read
from siftlens.attention.trial import CallForm, on_trial
from siftlens.auditing import AuditResult, storage
from siftlens.core import InputError, PatchGrid, StudyError
from siftlens.data import PROMPT, Normalization, as_pixels, expect_free, read_record, write_record
from siftlens.models import LoadedModel
from siftlens.models.checkpoints import hash_weights
from siftlens.models.given import AS_LOADED, Normalize, normalization_of
from siftlens.prompting.context import expect_unprompted, prompt
from siftlens.prompting.maps import cue_rows, expect_same_model, kinds_of, mixed_maps
from siftlens.prompting.plan import Plan, plan_of
from siftlens.prompting.policy import Policy

AUDIT_FOLDER = "audit"
_turn = threading.RLock()  # not of each module: those are copied and pickled


class Prompted(nn.Module):
    """A model under a policy; stands where the model stood. Made by `siftlens.prompted`.

    Inside `torch.compile` it runs eagerly, apart from the graph. Threads take turns.

    Attributes:
        model: the model, unchanged.
        policy: what is done to it.
        audit: whose cues it suppresses; None without cues.
    """

    def __init__(
        self,
        model: nn.Module,
        policy: Policy,
        normalization: Normalization | None,
        audit: AuditResult | None,
        weights_hash: str,
    ):
        super().__init__()
        self.model, self.policy, self.audit = model, policy, audit
        self._normalization, self._weights_hash = normalization, weights_hash
        self._grid: PatchGrid | None = None
        self.train(model.training)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns for these images under the policy.

        Args:
            args: as the model takes them; the first tensor is the images, (image, 3, height, width).
            kwargs: likewise.

        Raises:
            InputError: no images, or not what the normalisation says; cues of another grid.
            CaptureError: the model cannot be prompted, or is prompted already.
        """
        if on_trial() or self.policy.does_nothing:
            return self.model(*args, **kwargs)
        expect_no_pass_read()
        with _turn:
            expect_unprompted(self.model)
            plan = self.planned(*args, **kwargs)  # once: a call with further tensors is tried anew each time
            with prompt(self.model, self.policy, self._maps(plan, args, kwargs)) as prompting:
                prompting.plan = plan
                return self.model(*args, **kwargs)

    def under(self, maps: Float[Tensor, "image patch"], *args: Any, **kwargs: Any) -> Any:
        """What the model returns under the policy by these maps, for whoever has them already.

        Args:
            maps: of the images.
            args: as the model takes them.
            kwargs: likewise.

        Raises:
            CaptureError: the model cannot be prompted.
        """
        with _turn, prompt(self.model, self.policy, maps):
            return self.model(*args, **kwargs)

    def maps(self, *args: Any, **kwargs: Any) -> Float[Tensor, "image patch"]:
        """The maps of the images that the model is to be called on, higher = keep.

        Args:
            args: as the model takes them; the first tensor is the images.
            kwargs: likewise.

        Raises:
            InputError: as `forward`.
        """
        with _turn:
            return self._maps(self.planned(*args, **kwargs), args, kwargs)

    def tokens(self, *args: Any, **kwargs: Any) -> Float[Tensor, "image patch dim"] | None:
        """Tokens of the audit's layer, where the suppressed cues are made of them; else None. Arguments as `maps`."""
        with _turn:
            return self._tokens(self.planned(*args, **kwargs), args, kwargs)

    def save(self, folder: str | PathLike[str], *, beside: Iterable[str] = ()) -> None:
        """Write the prompt, without the model's weights: prompt.json, and the audit's cues in a folder beside it.

        Args:
            folder: to write to; made where it is missing.
            beside: names of files that are in it already; prompt.json takes their checksums, and `load_prompted`
                refuses the folder where one of them is damaged or gone.

        Raises:
            InputError: the folder holds a prompt already, or cannot be written.
        """
        folder = Path(folder)
        expect_free(folder)
        audit = self.audit
        if audit is not None:
            nothing = {name: getattr(audit, name).iloc[:0] for name in ("images", "shown", "pictures")}
            storage.save(replace(audit, **nothing), folder / AUDIT_FOLDER)
        normalization = None if self._normalization is None else asdict(self._normalization)
        whole = {
            "policy": json.loads(self.policy.to_json()),
            "normalization": normalization,
            "weights_hash": self._weights_hash,
            "audit": audit is not None,
        }
        write_record(folder / PROMPT, whole, beside)

    @property
    def grid(self) -> PatchGrid:
        """The patches of the images that it saw last.

        Raises:
            InputError: it has seen none.
        """
        if self._grid is None:
            raise InputError("the patches are known once the prompted model has seen images; call it first")
        return self._grid

    def planned(self, *args: Any, **kwargs: Any) -> Plan:
        """What is known of the model, called so.

        Raises:
            InputError: there are no images among the arguments.
            CaptureError: the model cannot be prompted.
        """
        if CallForm(args, kwargs).images is None:
            raise InputError(
                "expected images, (image, 3, height, width), as the first tensor among the arguments, got none"
            )
        plan = plan_of(self.model, args, kwargs)
        self._grid = plan.layout.grid
        return plan

    @torch.no_grad()
    def _maps(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Float[Tensor, "image patch"]:
        x = CallForm(args, kwargs).images
        assert x is not None
        tokens = self._tokens(plan, args, kwargs)
        return mixed_maps(self._pixels(x), plan.layout.grid, self.policy.maps, self.audit, tokens).to(x.device)

    @torch.no_grad()
    def _tokens(
        self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Float[Tensor, "image patch dim"] | None:
        audit = self.audit
        if audit is None:
            return None
        audit.expect_grid(plan.layout.grid)
        if "token" not in kinds_of(audit, cue_rows(audit, self.policy.maps)):
            return None
        with plan.access.read(audit.layer) as read:
            self.model(*args, **kwargs)
        return read[0]

    def _pixels(self, x: Tensor) -> list[UInt8[np.ndarray, "height width 3"]]:
        """The images before normalisation."""
        x = x.float()
        if self._normalization is not None:
            mean, std = (
                x.new_tensor(values)[:, None, None] for values in (self._normalization.mean, self._normalization.std)
            )
            x = x * std + mean
        return [as_pixels(image) for image in x]


def prompted(
    model: nn.Module | LoadedModel,
    policy: Policy,
    *,
    normalize: Normalize = AS_LOADED,
    audit: AuditResult | None = None,
) -> Prompted:
    """A module that stands where the model stood and computes its own maps from pixels, as `policy.maps` says.

    Args:
        model: a vision transformer in evaluation mode, or one from `siftlens.load_model`.
        policy: what is done to it.
        normalize: what the model expects of pixels in [0, 1], as for `siftlens.analyze`; not needed for a loaded model.
        audit: of this model, where the maps are made of its cues.

    Raises:
        InputError: no policy, or no audit; a normalisation that is missing or unknown; cues without an audit, an audit
            without cues to suppress, or one of another model.

    Example:
        >>> better = siftlens.prompted(model, policy, normalize="imagenet", audit=audit)
        >>> logits = better(images)
        >>> better.save("out/prompt")
    """
    module = model.module if isinstance(model, LoadedModel) else model
    if normalize != AS_LOADED or not isinstance(model, LoadedModel):
        normalization = normalization_of(normalize)
    else:
        normalization = model.normalization
    weights_hash = model.weights_hash if isinstance(model, LoadedModel) else hash_weights(module)
    if not isinstance(policy, Policy):
        raise InputError(f"policy must be a Policy, got {type(policy).__name__}; Policy.from_json reads one")
    if audit is not None and not isinstance(audit, AuditResult):
        raise InputError(f"audit must be what siftlens.audit or load_audit returned, got {type(audit).__name__}")
    if policy.maps.cues:
        if audit is None:
            raise InputError("the policy's maps are made of an audit's cues; pass audit= (--audit DIR)")
        expect_same_model(audit, weights_hash)
        cue_rows(audit, policy.maps)
    elif audit is not None and not policy.does_nothing:
        raise InputError(
            "an audit was given, but the policy's maps take nothing from it; give maps.cues a weight, or leave it out"
        )
    return Prompted(module, policy, normalization, audit if policy.maps.cues else None, weights_hash)


def load_prompted(folder: str | PathLike[str], model: nn.Module | LoadedModel) -> Prompted:
    """Read what `Prompted.save` wrote, for the model that it was made for.

    Args:
        folder: as written.
        model: with the same weights.

    Raises:
        StudyError: missing, it or a file beside it damaged, or written by a newer version.
        InputError: the model has other weights.
    """
    folder = Path(folder)
    if not (folder / PROMPT).is_file():
        raise StudyError(f"expected the folder of a prompt, but {folder} has no {PROMPT}")
    whole = read_record(folder / PROMPT, "copy it again, or make the prompt again")
    policy, weights_hash = Policy.from_json(json.dumps(whole["policy"])), whole["weights_hash"]
    given = whole["normalization"]
    normalize = None if given is None else (tuple(given["mean"]), tuple(given["std"]))
    audit = storage.load(folder / AUDIT_FOLDER) if whole["audit"] else None
    found = prompted(model, policy, normalize=normalize, audit=audit)
    if found._weights_hash != weights_hash:
        raise InputError(
            f"the prompt was made for other weights ({weights_hash[:8]}, these are {found._weights_hash[:8]}); "
            "make one for this model"
        )
    return found
