"""What all figures share: the report's colours, its marks, texts that are taken as they are."""

import io
import textwrap

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# The report's colours on white paper (report/assets/page.css), which colour-blind readers tell apart.
INK, SOFT, FAINT = "#1d1c1a", "#5f5c56", "#efebe3"
TOWARD, AWAY, ZERO, PLAIN = "#c4450c", "#1f63a8", "#f6f3ed", "#3f4f63"
HATCH, SMALL = "#a8a49c", 9.0
_STEEP = 0.7  # share of the pole's colour = magnitude ** _STEEP, so that small values keep a colour
_LONGEST = 70  # characters of a name
_LETTERS = 18  # of small print, per inch


class StudyFigure(Figure):
    """A matplotlib figure that notebooks show as SVG, whatever their backend."""

    def _repr_svg_(self) -> str:
        return rendered(self, "svg").decode()


def rendered(figure: Figure, format: str) -> bytes:  # noqa: A002  # matplotlib's own word
    """The figure as the bytes of a file, "svg" or "png"; the same bytes for the same figure."""
    buffer = io.BytesIO()
    # The same figure gives the same bytes, and the same letters in any viewer.
    with mpl.rc_context({"svg.hashsalt": "siftlens", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=format, dpi=200, metadata={"Date": None} if format == "svg" else None)
    return buffer.getvalue()


def blank(width: float, height: float) -> StudyFigure:
    """An empty figure, inches."""
    return StudyFigure(figsize=(width, height), layout="constrained", facecolor="white")


def diverging() -> Colormap:
    """Away, nothing, toward: -1, 0, 1."""
    shades = [*_shades(AWAY)[::-1], *_shades(TOWARD)[1:]]
    return LinearSegmentedColormap.from_list("siftlens_diverging", shades, N=257)  # odd: 0 has a colour of its own


def sequential() -> Colormap:
    """Nothing to much: 0, 1."""
    return LinearSegmentedColormap.from_list("siftlens_sequential", _shades(PLAIN))


def _shades(pole: str, steps: int = 65) -> list[tuple[float, ...]]:
    zero, full = (np.array(mpl.colors.to_rgb(colour)) for colour in (ZERO, pole))
    shares = np.linspace(0, 1, steps) ** _STEEP
    return [tuple((1 - share) * zero + share * full) for share in shares]


def titles(figure: Figure, title: str, *told: str) -> None:
    """Title above and, below, what a reader must know, as text in which nothing is markup."""
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold", color=INK, parse_math=False)
    width = int(_LETTERS * figure.get_figwidth())
    lines = "\n".join(textwrap.fill(part, width) for part in told)
    figure.supxlabel(lines, x=0.02, ha="left", fontsize=7.5, color=SOFT, parse_math=False)


def shortened(name: str) -> str:
    """A name on one line, cut where it is very long."""
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def quiet(axes: Axes) -> None:
    """Only what is read: no frame, small soft labels."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=SOFT)


def hatch(axes: Axes, column: float, row: float) -> None:
    """Marks a cell that cannot be told from the null: paler, and hatched."""
    place = (column - 0.5, row - 0.5)
    axes.add_patch(Rectangle(place, 1, 1, facecolor="white", alpha=0.6, linewidth=0))
    axes.add_patch(Rectangle(place, 1, 1, fill=False, hatch="////", edgecolor=HATCH, linewidth=0))
