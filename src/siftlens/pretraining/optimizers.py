"""What turns gradients into steps."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from siftlens.pretraining.autoencoder import MaskedAutoencoder

_MATRICES = {
    "muon": ("encoder.blocks.", "decoder.blocks."),
    "muon-encoder": ("encoder.blocks.",),
    "adamw": (),
}  # Muon's
OPTIMIZERS = tuple(_MATRICES)
_BETAS = (0.9, 0.95)  # of AdamW, as in MAE
_LARGER = 4.0  # Muon's rate over AdamW's; of 1, 2 and 4 the best, on seeds that no study uses
_MOMENTS = {AdamW: ("exp_avg", "exp_avg_sq"), Muon: ("momentum_buffer",)}  # per parameter


def optimizers_of(model: MaskedAutoencoder, kind: str, decay: float) -> list[Optimizer]:
    """The optimizers of an autoencoder's parameters.

    "muon": steps of the blocks' matrices are made orthogonal (Muon, Jordan et al. 2024), in bfloat16. They are four
    times as large as AdamW's (which Liu et al. 2025 match), and so is the decay of these matrices; one learning rate
    serves both. All else has AdamW. "muon-encoder": likewise, but the decoder's matrices have AdamW, whose steps cost
    less where the decoder is the wider. "adamw": AdamW alone, as in MAE.

    Args:
        model: newly built.
        kind: one of `OPTIMIZERS`.
        decay: of the weights of matrices, over the rate of their optimizer; biases, norms and tokens do not decay.
    """
    matrices: list[Tensor] = []
    others: dict[float, list[Tensor]] = {decay: [], 0.0: []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.squeeze().ndim > 1
        if matrix and parameter.ndim == 2 and name.startswith(_MATRICES[kind]):
            matrices.append(parameter)
        else:
            others[decay if matrix else 0.0].append(parameter)
    groups = [{"params": parameters, "weight_decay": weight_decay} for weight_decay, parameters in others.items()]
    adamw = AdamW(groups, betas=_BETAS, fused=True)
    return [adamw, Muon(matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw")] if matrices else [adamw]


def set_rate(optimizers: Iterable[Optimizer], rate: float) -> None:
    """Set the learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = _LARGER * rate if isinstance(optimizer, Muon) else rate


def moments(optimizers: Iterable[Optimizer], module: nn.Module) -> dict[str, Tensor]:
    """What optimizers remember of earlier steps, by moment and parameter; nothing before the first step."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for optimizer, name, parameter in _owned(optimizers, module)
        for moment in _MOMENTS[type(optimizer)]
        if moment in optimizer.state.get(parameter, {})
    }


def restore(optimizers: Iterable[Optimizer], module: nn.Module, kept: Mapping[str, Tensor], step: int) -> None:
    """Have new optimizers remember what `moments` returned after so many steps."""
    for optimizer, name, parameter in _owned(optimizers, module):
        own = {moment: kept[f"{moment}.{name}"] for moment in _MOMENTS[type(optimizer)] if f"{moment}.{name}" in kept}
        if len(own) == len(_MOMENTS[type(optimizer)]):
            state = {moment: tensor.to(parameter.device) for moment, tensor in own.items()}
            if isinstance(optimizer, AdamW):
                state["step"] = torch.tensor(float(step), device=parameter.device)
            optimizer.state[parameter] = state


def _owned(optimizers: Iterable[Optimizer], module: nn.Module) -> Iterator[tuple[Optimizer, str, Tensor]]:
    """Each parameter with the optimizer that changes it."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield optimizer, names[parameter], parameter
