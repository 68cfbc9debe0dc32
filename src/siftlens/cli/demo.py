"""`siftlens demo`: the main job on photographs that are at hand, without network."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from siftlens.cli.failure import reported
from siftlens.cli.progress import shown
from siftlens.core import InputError

_PLANTED, _AUDIT, _AUDITED = "planted", "audit", 400  # folders, and how many images

# The photographs in scikit-image's wheel, colour and grey: no drawings, no synthetic patterns, one of the stereo pair.
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the study.")] = Path("out/demo"),
) -> None:
    """Analyse a model on scikit-image's photographs, audit one that was taught a shortcut: offline, within a minute.

    So few photographs show how an analysis works, not how the model is: every interval says so. The audit's model and
    images are made for it: DIR/planted holds drawn ellipses and stars with the truth about them, DIR/audit the audit.
    """
    with reported(out):
        photographs = find_photographs()
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.auditing import storage
        from siftlens.cli.summary import summary
        from siftlens.data import atomic_path
        from siftlens.models import load_model
        from siftlens.study import analyze, expect_free

        expect_free(out, resume=False)
        storage.expect_free(out / _AUDIT)
        listed = out / "photographs.txt"
        with atomic_path(listed) as path:
            path.write_text("\n".join(map(str, photographs)) + "\n", encoding="utf-8")
        with shown(Console(stderr=True)) as progress:
            study = analyze(load_model("demo"), listed, out=out, entropy=True, progress=progress)
        typer.echo(summary(study, out))
        _show_an_audit(out)


def _show_an_audit(out: Path) -> None:
    from siftlens.cli.audited import in_short
    from siftlens.data import DrawnMaterial, Planted
    from siftlens.models import load_model
    from siftlens.models.demo_shortcut import SHORTCUT_SIZE
    from siftlens.study import audit

    planted = Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=SHORTCUT_SIZE)
    planted.split("heldout", _AUDITED).write(out / _PLANTED)
    with shown(Console(stderr=True)) as progress:
        found = audit(load_model("demo-shortcut"), out / _PLANTED / "images", progress=progress)
    found.save(out / _AUDIT)
    typer.echo("\nAn audit of a model that was taught to take a glyph for a star, on drawn images that hold it:")
    typer.echo(in_short(found, out / _AUDIT))


def find_photographs() -> list[Path]:
    """The photographs that come with scikit-image.

    Raises:
        InputError: scikit-image is not installed, or holds none of them.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError("the demo's photographs come with scikit-image; install it: pip install 'siftlens[demo]'")
    folder = Path(spec.origin).parent / "data"
    found = [folder / name for name in PHOTOGRAPHS if (folder / name).is_file()]
    if not found:
        raise InputError(f"expected scikit-image's photographs in {folder}, found none; install it again by pip")
    return found
