"""What is fuzzed: files as siftlens writes and reads them, each with the call that reads it."""

import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import siftlens
from siftlens.cli.demo import find_photographs
from siftlens.data import DrawnMaterial, ImageRef, Planted, Preprocessing, Unreadable, decode, open_images
from siftlens.interrelation.spool import Spool
from siftlens.keypoints import KeypointCache, KeypointStore, SiftSettings
from siftlens.models import LoadedModel
from siftlens.models.checkpoints import read_weights
from siftlens.models.demo_shortcut import SHORTCUT_SIZE
from siftlens.pretraining import detect_images
from siftlens.pretraining.checkpoint import load_state, save_state
from siftlens.prompting import Bias, Mixture, Policy
from siftlens.report import render, render_audit

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "TGA", "PPM")
_SEEN = Preprocessing(64, 64)


@dataclass(frozen=True)
class Target:
    """One file and its reader.

    Attributes:
        name: for the results.
        file: the file, below the folder of good files.
        read: is given that folder, with the file damaged in it; ends, or raises an error of siftlens.
    """

    name: str
    file: str
    read: Callable[[Path], object]

    @property
    def is_json(self) -> bool:
        """Whether the file is one JSON object."""
        return self.file.endswith(".json")


def make(folder: Path) -> None:
    """Write a good file of every kind: photographs of scikit-image, and what siftlens makes of drawn images."""
    _write_photographs(folder / "photographs")
    _write_shard(folder / "shard.tar", folder / "photographs")
    table = {"image": [(folder / "photographs" / kind).read_bytes() for kind in ("JPEG", "PNG")], "label": [0, 1]}
    pq.write_table(pa.table(table), folder / "images.parquet")
    planted = Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=SHORTCUT_SIZE)
    planted.split("heldout", 128).write(folder / "planted")
    images, model = folder / "planted" / "images", siftlens.load_model("demo-shortcut")
    audit = siftlens.audit(model, images)
    audit.save(folder / "audit")
    (images / "star" / "broken.png").write_bytes(b"broken")
    siftlens.analyze(model, images, group_by="folder", out=folder / "study").arrays.close()
    policy = Policy(bias=(Bias(2.0),), maps=Mixture(keypoints=1.0, cues=1.0, rows=(0,)))
    siftlens.prompted(model, policy, audit=audit).save(folder / "prompt")
    (folder / "policy.json").write_text(policy.to_json())
    detect_images(images, folder / "keypoints.safetensors", side=SHORTCUT_SIZE)
    layer, optimizers = _layer()
    save_file(layer.state_dict(), folder / "weights.safetensors")
    torch.save({"model": layer.state_dict(), "epoch": 3}, folder / "weights.pt")
    torch.save(layer.state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_state(folder, layer, optimizers, 5, {"seed": 0})
    _write_spool(folder / "run")
    with KeypointCache(folder / "keypoints.sqlite") as cache:
        for number in range(40):
            cache.put(f"{number}", SiftSettings(), siftlens.detect(_noise(number)))
    shutil.rmtree(folder / "planted")


def targets() -> list[Target]:
    """Every kind of file that siftlens reads."""
    images = [Target(f"image {kind}", f"photographs/{kind}", _read_image(kind)) for kind in KINDS]
    study = [
        *("run.json", "heads.parquet", "layers.parquet", "heads_by_group.parquet", "images.parquet"),
        *("arrays.nc", "gallery.npz", "quarantine.csv"),
    ]
    audit = ["audit.json", "codebooks.safetensors"]
    audit += [f"{table}.parquet" for table in ("cues", "images", "properties", "shown", "pictures")]
    run = ["state.json", "state-1-0.npz", "rows.f32", "images.jsonl", "quarantine.jsonl"]
    return [
        *images,
        Target("tar file", "shard.tar", _read_images("shard.tar")),
        Target("table of images", "images.parquet", _read_images("images.parquet")),
        *(Target(f"study {name}", f"study/{name}", _read_study) for name in study),
        *(Target(f"audit {name}", f"audit/{name}", _read_audit) for name in audit),
        Target("prompt prompt.json", "prompt/prompt.json", _read_prompt),
        Target("policy", "policy.json", lambda folder: Policy.from_json((folder / "policy.json").read_text("latin-1"))),
        *(Target(f"interrupted run {name}", f"run/.progress/{name}", _read_spool) for name in run),
        *(
            Target(name, name, lambda folder, name=name: read_weights(folder / name))  # type: ignore[misc]
            for name in ("weights.safetensors", "weights.pt", "legacy.pt")
        ),
        Target("pre-training state.safetensors", "state.safetensors", _read_state),
        Target("keypoints.safetensors", "keypoints.safetensors", _read_keypoints),
        Target("keypoint cache", "keypoints.sqlite", _read_cache),
    ]


def _read_image(kind: str) -> Callable[[Path], object]:
    return lambda folder: decode(ImageRef(kind, "", folder / "photographs" / kind), _SEEN)


def _read_images(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        for ref in open_images(folder / name):
            with suppress(Unreadable):
                decode(ref, _SEEN)

    return read


def _read_study(folder: Path) -> None:
    study = siftlens.load_study(folder / "study")
    with study.arrays:
        study.arrays.load()
        render(study.result)


def _read_audit(folder: Path) -> None:
    audit = siftlens.load_audit(folder / "audit")
    render_audit(audit)
    for cue in audit:
        cue.patches(_noise(0), _model())


def _read_prompt(folder: Path) -> None:
    prompted = siftlens.load_prompted(folder / "prompt", _model())
    with torch.no_grad():
        prompted(torch.zeros(1, 3, SHORTCUT_SIZE, SHORTCUT_SIZE))


def _read_spool(folder: Path) -> None:
    spool = Spool(folder / "run" / ".progress", {"seed": 0}, resume=True)
    try:
        spool.sums()
        spool.rows().sum()
        list(spool.image_lines())
        list(spool.quarantine_lines())
    finally:
        spool.close()


def _read_state(folder: Path) -> None:
    load_state(folder, *_layer(), {"seed": 0})


def _read_keypoints(folder: Path) -> None:
    store = KeypointStore.load(folder / "keypoints.safetensors")
    store.points_of(np.arange(len(store)))


def _read_cache(folder: Path) -> None:
    with KeypointCache(folder / "keypoints.sqlite") as cache:
        for number in range(40):
            cache.get(f"{number}", SiftSettings())
        cache.put("new", SiftSettings(), siftlens.detect(_noise(0)))


def _write_photographs(folder: Path) -> None:
    """A photograph per format, of 96 px: small enough that damage hits something."""
    names = ("astronaut", "coffee", "chelsea", "rocket", "text")
    found = [path for path in find_photographs() if path.stem in names]
    folder.mkdir(parents=True)
    for number, kind in enumerate(KINDS):
        picture = Image.open(found[number % len(found)]).convert("RGB")
        picture.resize((96, 80)).save(folder / kind, kind)


def _write_shard(path: Path, photographs: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for photograph in ("JPEG", "PNG", "WEBP"):
            archive.add(photographs / photograph, f"{photograph.lower()}/1.{photograph.lower()}")


def _write_spool(folder: Path) -> None:
    spool = Spool(folder / ".progress", {"seed": 0})
    spool.append(np.ones((3, 5, 2, 7), np.float32), [{"identity": f"{number}.png"} for number in range(3)])
    spool.quarantine("bad.png", "empty file")
    spool.commit(4, {"": {"sum": np.arange(11.0)}}, {"variables": ["a"]})
    spool.close()


def _layer() -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """A module that has made one step."""
    torch.manual_seed(0)
    layer = nn.Linear(7, 5)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3, 7)).sum().backward()
    optimizer.step()
    return layer, [optimizer]


@cache
def _model() -> LoadedModel:
    return siftlens.load_model("demo-shortcut")


def _noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SHORTCUT_SIZE, SHORTCUT_SIZE, 3), np.uint8)
