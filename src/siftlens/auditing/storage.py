"""An audit as a folder.

cues.parquet            a row per cue
images.parquet          a row per image
properties.parquet      a row per class and property of whole images
shown.parquet           a row per picture of a cue: which image, and where the cue is
pictures.parquet        a row per picture, as JPEG
codebooks.safetensors   the visual words
audit.json              how it was run; written last, so its presence says that the audit is complete
"""

from dataclasses import asdict
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file

from siftlens.auditing.codebook import Codebook
from siftlens.auditing.results import AuditResult
from siftlens.auditing.vocabulary import Vocabulary
from siftlens.core import PatchGrid, StudyError
from siftlens.data import (
    AUDIT,
    Normalization,
    Preprocessing,
    atomic_path,
    expect_free,
    read_record,
    write_record,
)
from siftlens.interrelation.files import write_table

_CODEBOOKS = "codebooks.safetensors"
_TABLES = ("cues", "images", "properties", "shown", "pictures")
FILES = (_CODEBOOKS, *(f"{name}.parquet" for name in _TABLES))


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a whole audit."""
    return (folder / AUDIT).exists()


def save(audit: AuditResult, folder: Path) -> None:
    """Write an audit.

    Raises:
        InputError: the folder holds an audit already, or cannot be written.
    """
    expect_free(folder)
    for name in _TABLES:
        write_table(folder / f"{name}.parquet", getattr(audit, name))
    tensors = {
        f"{kind}.{part}": getattr(codebook, part).contiguous()
        for kind, codebook in audit.vocabulary.codebooks.items()
        for part in ("mean", "axes", "centres")
    }
    with atomic_path(folder / _CODEBOOKS) as path:
        save_file(tensors, path)
    whole = {
        "grid": asdict(audit.vocabulary.grid),
        "layer": audit.layer,
        "preprocessing": asdict(audit.preprocessing),
        "normalization": None if audit.normalization is None else asdict(audit.normalization),
        "info": dict(audit.info),
    }
    write_record(folder / AUDIT, whole, (*(f"{name}.parquet" for name in _TABLES), _CODEBOOKS))


def load(folder: Path) -> AuditResult:
    """Read an audit.

    Raises:
        StudyError: missing, incomplete, damaged, changed, or written by a newer version.
    """
    if not (folder / AUDIT).is_file():
        raise StudyError(f"expected the folder of an audit, but {folder} has no {AUDIT}")
    whole = read_record(folder / AUDIT, "copy it again, or run the audit again")
    tensors = load_file(folder / _CODEBOOKS)
    kinds = dict.fromkeys(name.partition(".")[0] for name in tensors)
    codebooks = {kind: Codebook(*(tensors[f"{kind}.{part}"] for part in ("mean", "axes", "centres"))) for kind in kinds}
    normalization = whole["normalization"]
    return AuditResult(
        **{name: pd.read_parquet(folder / f"{name}.parquet") for name in _TABLES},
        info=whole["info"],
        vocabulary=Vocabulary(PatchGrid(**whole["grid"]), codebooks),
        layer=whole["layer"],
        preprocessing=Preprocessing(**whole["preprocessing"]),
        normalization=None
        if normalization is None
        else Normalization(tuple(normalization["mean"]), tuple(normalization["std"])),
    )
