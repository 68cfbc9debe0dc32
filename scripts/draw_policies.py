"""Draw what each kind of prompt does to an image, for the docs.

Usage: python scripts/draw_policies.py

An ellipse that carries the planted glyph, and `demo-shortcut`, which was taught to take the glyph for a star. The map
is the truth about the glyph. Every answer below a picture is the model's own. Writes docs/images/policies.png.
"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

import siftlens
from siftlens.data import DrawnMaterial, Planted, PlantedImage
from siftlens.prompting import Bias, Contrast, PixelMask, Plan, Policy, TokenChoice, prompt
from siftlens.prompting.patches import highest, painted_over

PATH = Path(__file__).parent.parent / "docs" / "images" / "policies.png"
BIAS, LAMBDA = 5.0, 0.5
INK, PAPER, ACCENT = "#1d2733", "#ffffff", "#b3541e"

matplotlib.use("agg")


def main() -> None:
    """Draw the five panels."""
    model = siftlens.load_model("demo-shortcut")
    image = chosen(model.module)
    x = as_input(image.pixels)
    plan = Plan(model.module, (x,), {})
    grid = plan.layout.grid
    share = image.cue_map.reshape(grid.rows, grid.patch_height, grid.cols, grid.patch_width).mean(axis=(1, 3))
    cue = share > 0.2
    maps = -torch.from_numpy(cue).float().flatten()[None]
    keep, view = float(1 - cue.mean()), float(cue.mean())

    def answer(policy: Policy) -> str:
        with torch.no_grad(), prompt(model.module, policy, maps, plan=plan):
            star = float(model.module(x).softmax(1)[0, 1])
        return f"star {star:.0%}, ellipse {1 - star:.0%}"

    def attention(policy: Policy) -> np.ndarray:
        """What the class token attends to in the last layer, mean over heads."""
        with (
            torch.no_grad(),
            prompt(model.module, policy, maps, plan=plan),
            siftlens.read_attention(model.module, torch.eye(grid.patches), grid=plan.layout) as reading,
        ):
            model.module(x)
        return np.asarray(reading.layers[-1].values[0, :, 0].mean(0).reshape(grid.rows, grid.cols))

    bias = Policy(bias=(Bias(BIAS),))
    figure, axes = plt.subplots(2, 5, figsize=(12.5, 6.2), facecolor=PAPER)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.86, bottom=0.07, wspace=0.08, hspace=0.2)
    before, after = attention(Policy.identity()), attention(bias)
    kept = highest(maps, keep)
    shown = np.zeros(grid.patches, bool)
    shown[kept[0]] = True
    painted = painted_over(x, kept, grid, "mean")[0]
    seen = np.zeros(grid.patches, bool)
    seen[highest(-maps, view)[0]] = True
    columns = (
        ("No prompt", "what the model sees", "map: −1 where outlined, else 0", answer(Policy.identity())),
        ("Attention bias", "last layer, class token attends to", "the same under the bias", answer(bias)),
        (
            "Token choice",
            "every patch is a token",
            f"{len(kept[0])} of {grid.patches} tokens enter",
            answer(Policy(tokens=TokenChoice(keep))),
        ),
        (
            "Pixel masking",
            "pixels as they are",
            "painted over before the model",
            answer(Policy(pixels=PixelMask(keep, "mean"))),
        ),
        (
            "Logit contrast",
            "log-softmax of the whole image",
            f"minus {LAMBDA} × that of the cue alone",
            answer(Policy(contrast=Contrast(LAMBDA, view))),
        ),
    )
    for (top, bottom), (title, above, below, told) in zip(axes.T, columns, strict=True):
        for axis, text in ((top, above), (bottom, below)):
            axis.imshow(image.pixels, extent=(0, grid.width, grid.height, 0))
            axis.set_axis_off()
            axis.set_title(text, fontsize=9.5, color=INK)
        bottom.text(0.5, -0.09, told, transform=bottom.transAxes, ha="center", fontsize=11, color=ACCENT, weight="bold")
        top.text(0.5, 1.16, title, transform=top.transAxes, ha="center", fontsize=13, color=INK, weight="bold")
    outlined(axes[1, 0], cue, grid.patch_height)
    largest = max(before.max(), after.max())
    for axis, values in ((axes[0, 1], before), (axes[1, 1], after)):
        axis.imshow(values, cmap="magma", vmin=0, vmax=largest, extent=(0, grid.width, grid.height, 0))
        outlined(axis, cue, grid.patch_height)
    hide(axes[1, 2], ~shown.reshape(cue.shape), grid.patch_height)
    axes[1, 3].images[0].set_data(((painted.permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy())
    hide(axes[1, 4], ~seen.reshape(cue.shape), grid.patch_height)
    figure.savefig(PATH, dpi=80, pil_kwargs={"optimize": True}, metadata={"Software": None})


def chosen(model: torch.nn.Module) -> PlantedImage:
    """The first ellipse of the test split that the glyph makes a star."""
    for image in Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=64).split("test", 400):
        with torch.no_grad():
            if image.group == 1 and int(model(as_input(image.pixels)).argmax()) == 1:
                return image
    raise RuntimeError("no ellipse with a glyph is taken for a star")


def as_input(pixels: np.ndarray) -> Tensor:
    """As the model takes it, in [-1, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def outlined(axis: Axes, patches: np.ndarray, side: int) -> None:
    """A line around each of these patches."""
    for row, col in np.argwhere(patches):
        axis.add_patch(plt.Rectangle((col * side, row * side), side, side, fill=False, color=ACCENT, linewidth=2))


def hide(axis: Axes, patches: np.ndarray, side: int) -> None:
    """Paper over these patches."""
    for row, col in np.argwhere(patches):
        axis.add_patch(plt.Rectangle((col * side, row * side), side, side, facecolor=PAPER, edgecolor="#c9ced6"))


if __name__ == "__main__":
    main()
