"""Run the commands of docs/howto/pretrain.md and put what they say into the page.

    python benchmarks/pretraining_tutorial.py --data ../shared/data/imagenette-128

"One's own" images are some of DATA's, spread evenly. The commands are read off the page, so that what is told is what
was run. Writes benchmarks/results/pretraining-tutorial.json.
"""

import argparse
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import figures
import machine

PAGE = figures.ROOT / "docs" / "howto" / "pretrain.md"
IMAGES = {"train": 3000, "val": 1000}
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOUND = {"pretrain": r"(\d+) images/s", "probe": r"accuracy +([\d.]+)%"}


def commands() -> list[list[str]]:
    """The page's pre-training and probes."""
    lines = "".join(BLOCK.findall(PAGE.read_text())).replace("\\\n", "").splitlines()
    return [shlex.split(line) for line in lines]


def own_images(data: Path, folder: Path) -> None:
    """Links to some of the images, in class folders."""
    for part, count in IMAGES.items():
        paths = sorted((data / part).rglob("*.jpg"))
        for path in paths[:: max(1, len(paths) // count)][:count]:
            link = folder / "own" / part / path.parent.name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())


def timed(command: list[str], folder: Path) -> dict[str, Any]:
    """Run one command; its seconds, those of the processor, and the figure that it prints."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    program = [str(Path(sys.executable).with_name("siftlens")), *command[1:]]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figure = re.search(FOUND[command[1]], done.stdout)
    assert figure is not None, done.stdout
    seconds = round(perf_counter() - start, 1)
    return {"command": shlex.join(command), "seconds": seconds, "cpu_seconds": round(cpu, 1), "found": float(figure[1])}


def told(result: dict[str, Any]) -> str:
    """The paragraph of the page."""
    train, trained, untrained = result["commands"]
    minutes = (train["seconds"] + trained["seconds"]) / 60
    return (
        f"On {result['train']} images of Imagenette and {result['val']} to be tested on, with "
        f"{result['machine']['threads']} threads on an {result['machine']['processor']}, pre-training took "
        f"{train['seconds']:.0f} s ({train['cpu_seconds']:.0f} s of a core, {train['found']:.0f} images/s) and a "
        f"probe {trained['seconds']:.0f} s ({trained['cpu_seconds']:.0f} s), together "
        f"{minutes:.1f} minutes. The linear probe of the trained encoder has {trained['found']:.1f} % of ten classes "
        f"right, that of the untrained one {untrained['found']:.1f} %. One seed, {result['date']}, torch "
        f"{result['machine']['torch']}; `{result['command']}` runs the commands of this page."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/<class>/*.jpg and val/<class>/*.jpg"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own_images(given.data, Path(folder))
        found = [timed(command, Path(folder)) for command in commands()]
    machine.save_result("pretraining-tutorial", {**IMAGES, "commands": found})
    figures.fill(PAGE, {"pretraining-tutorial": told(figures.load("pretraining-tutorial"))})


if __name__ == "__main__":
    main()
