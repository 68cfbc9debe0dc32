"""`siftlens demo`: the main job on photographs that are at hand, without network."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from siftlens.cli.failure import reported
from siftlens.cli.options import output
from siftlens.cli.progress import shown
from siftlens.core import InputError

_PLANTED, _AUDIT, _FRESH, _PROMPT = "planted", "audit", "planted_test", "prompt"  # folders
_IMAGES = 400  # of the audit, and as many further ones for the prompt
_STRENGTH = 3.0  # of the bias: the middle of what is usual, not tuned

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
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", parser=output, help="Folder for the study.")
    ] = Path("out/demo"),
) -> None:
    """Analyse a model on scikit-image's photographs; audit one that was taught a shortcut, and prompt it: offline.

    So few photographs show how an analysis works, not how the model is: every interval says so. The audit's model and
    images are made for it: DIR/planted holds drawn ellipses and stars with the truth about them, DIR/audit the audit,
    DIR/prompt the answers to further images before and after a prompt. All of it takes about a minute.
    """
    with reported(out):
        photographs = find_photographs()
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"expected a new or an empty folder, but {out} holds files; remove it, or choose another")
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.cli.summary import summary
        from siftlens.data import atomic_path
        from siftlens.models import load_model
        from siftlens.study import analyze

        listed = out / "photographs.txt"
        with atomic_path(listed) as path:
            path.write_text("\n".join(map(str, photographs)) + "\n", encoding="utf-8")
        with shown(Console(stderr=True)) as progress:
            study = analyze(load_model("demo"), listed, out=out, entropy=True, progress=progress)
        typer.echo(summary(study, out))
        _show_an_audit_and_a_prompt(out)


def _show_an_audit_and_a_prompt(out: Path) -> None:
    from siftlens.cli.audited import in_short
    from siftlens.cli.prompted import prompted
    from siftlens.data import DrawnMaterial, Planted
    from siftlens.models import load_model
    from siftlens.models.demo_shortcut import SHORTCUT_SIZE
    from siftlens.prompting import Bias, Mixture, Policy
    from siftlens.prompting.maps import harmful_rows
    from siftlens.study import audit, try_prompt

    planted = Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=SHORTCUT_SIZE)
    planted.split("heldout", _IMAGES).write(out / _PLANTED)
    planted.split("test", _IMAGES).write(out / _FRESH)
    model = load_model("demo-shortcut")
    with shown(Console(stderr=True)) as progress:
        found = audit(model, out / _PLANTED / "images", progress=progress)
    found.save(out / _AUDIT)
    typer.echo("\nAn audit of a model that was taught to take a glyph for a star, on drawn images that hold it:")
    typer.echo(in_short(found, out / _AUDIT))
    suppress = Policy(bias=(Bias(_STRENGTH),), maps=Mixture(cues=1.0)) if harmful_rows(found) else Policy.identity()
    with shown(Console(stderr=True)) as progress:
        effect = try_prompt(model, suppress, out / _FRESH / "images", audit=found, out=out / _PROMPT, progress=progress)
    typer.echo("\nThe same model with attention moved off what does harm, on images where the glyph tells nothing:")
    typer.echo(prompted(effect, out / _PROMPT))


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
