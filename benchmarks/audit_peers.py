"""What an audit tells and costs beside other ways to look for shortcuts, on the study's models and the same images.

Usage: python benchmarks/audit_peers.py --work /tmp/audit-study --seeds 2
       (needs scikit-learn, corelay, and cleanlab with its extras "datalab" and "image", which siftlens does not)

On planted images at correlation 0.95, who finds the images whose cue speaks against their label? AUROC over all
audited images of

- risk: of the audit, which uses neither groups nor masks;
- margin: minus the model's own margin for the label, the plainest of all;
- slices: share of errors in an image's slice, after Domino (Eyuboglu et al., 2022): a Gaussian mixture over the last
  features (principal axes), labels and predictions;
- clusters: corelay's spectral clusters of expected gradients by class (SpRAy; Lapuschkin et al., 2019). A person has to
  choose among them: the score is that of the best cluster, chosen with the truth, an upper bound.

And for the audit and cleanlab's Datalab: which properties of whole images are flagged. Seconds, forward-pass
equivalents and growth of peak memory stand beside. Writes benchmarks/results/audit-peers.json.
"""

import argparse
import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import siftlens
from audit_study import auroc, rounded
from machine import memory_mb, reset_peak_memory, save_result
from planted_models import Recipe, to_input, trained
from siftlens.auditing.run import Run
from siftlens.auditing.settings import AuditSettings
from siftlens.data import DrawnMaterial, Planted, PlantedImage, open_images
from siftlens.models.given import as_loaded

CORRELATION = 0.95
IMAGES = 600
SLICES, CLUSTERS = 25, 8
AXES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/audit-study"), help="folder for models")
    parser.add_argument("--cues", nargs="+", default=["glyph", "patch", "tint", "blur"])
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        for cue in arguments.cues:
            planted = Planted(DrawnMaterial(), cue, CORRELATION, size=64, seed=seed)
            row = {"cue": cue, "seed": seed} | compared(planted, trained(planted, Recipe(), arguments.work / "models"))
            print(row, flush=True)
            rows.append(row)
    print(save_result("audit-peers", {"correlation": CORRELATION, "images": IMAGES, "rows": rows}))


def compared(planted: Planted, model: torch.nn.Module) -> dict[str, Any]:
    """Scores, flags and costs of every way on one model."""
    images = planted.split("heldout", IMAGES)[:]
    labels = np.array([image.label for image in images])
    against = np.array([image.cue != image.label for image in images])
    pixels = [image.pixels for image in images]
    ways: dict[str, Callable[[], Any]] = {
        "siftlens": lambda: siftlens.audit(model, pixels, labels.tolist(), normalize="inception", seed=planted.seed),
        "slices": lambda: slices(model, images, labels, planted.seed),
        "clusters": lambda: clusters(model, pixels, labels, planted.seed),
        "datalab": lambda: datalab(pixels, labels),
    }
    found, costs = {}, {}
    for name, way in ways.items():
        reset_peak_memory()
        before, start = memory_mb("VmRSS"), time.perf_counter()
        found[name] = way()
        costs[name] = {
            "seconds": round(time.perf_counter() - start, 1),
            "peak_mb": round(memory_mb("VmHWM") - before, 1),
        }
    audit = found["siftlens"]
    costs["siftlens"]["passes_per_image"] = audit.info["passes_per_image"]
    clustered = found["clusters"]
    best = max(auroc(clustered[against] == one, clustered[~against] == one) or 0.5 for one in np.unique(clustered))
    relied = audit.properties[audit.properties["verdict"] == "relied on"]
    return {
        "auroc": {
            "risk": rounded(split(audit.images["risk"].to_numpy(), against)),
            "margin": rounded(split(-audit.images["margin"].to_numpy(), against)),
            "slices": rounded(split(found["slices"], against)),
            "best cluster": rounded(best),
        },
        "properties": {"siftlens": sorted(set(relied["property"])), "datalab": found["datalab"]},
        "cost": costs,
    }


def split(score: np.ndarray, against: np.ndarray) -> float | None:
    """Chance that an image against the cue has the larger score."""
    return auroc(score[against], score[~against])


@torch.no_grad()
def slices(model: torch.nn.Module, images: list[PlantedImage], labels: np.ndarray, seed: int) -> np.ndarray:
    """Share of errors in each image's slice."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    x = to_input(images)
    features = model.forward_head(model.forward_features(x), pre_logits=True).numpy()  # type: ignore[operator]
    chances = model(x).softmax(dim=1).numpy()
    reduced = PCA(AXES, random_state=seed).fit_transform(features)
    reduced /= reduced.std()
    # Labels and predictions weigh as Domino's default does, ten to one.
    table = np.hstack([reduced, np.sqrt(10) * np.eye(2)[labels], np.sqrt(10) * chances])
    mixture = GaussianMixture(SLICES, covariance_type="diag", reg_covar=1e-3, random_state=seed).fit(table)
    shares = mixture.predict_proba(table)
    wrong = chances.argmax(axis=1) != labels
    return np.asarray(shares @ (shares.T @ wrong / np.maximum(shares.sum(axis=0), 1e-9)))


def clusters(model: torch.nn.Module, pixels: list[np.ndarray], labels: np.ndarray, seed: int) -> np.ndarray:
    """A cluster for every image, those of each class apart."""
    from corelay.pipeline.spectral import SpectralClustering
    from corelay.processor.clustering import KMeans

    source = open_images(pixels)
    run = Run(
        as_loaded(model, source, "inception", None), source, labels.tolist(), AuditSettings(seed=seed), lambda *_: None
    )
    run.sample.discover[:] = True  # attributions are computed for the discover half alone
    maps = run.see(run.vocabulary(), partial(map, run.bench)).attribution
    found = np.zeros(len(labels), int)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        pipeline = SpectralClustering(clustering=KMeans(n_clusters=CLUSTERS, is_output=True))
        _, clustered = pipeline(maps[mine].astype(np.float64))
        found[mine] = CLUSTERS * label + clustered
    return found


def datalab(pixels: list[np.ndarray], labels: np.ndarray) -> list[str]:
    """Properties that Datalab calls spuriously correlated with the label."""
    from cleanlab import Datalab
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as PILImage

    features = Features({"image": Image(), "label": Value("int64")})
    images = Dataset.from_dict({"image": [PILImage.fromarray(p) for p in pixels], "label": labels.tolist()}, features)
    with redirect_stdout(io.StringIO()):
        lab = Datalab(data=images, label_name="label", image_key="image", verbosity=0)
        properties = ("dark", "light", "blurry", "low_information", "odd_aspect_ratio", "odd_size", "grayscale")
        lab.find_issues(
            issue_types={"image_issue_types": {name: {} for name in properties}, "spurious_correlations": {}}
        )
    found = lab.get_info("spurious_correlations")
    table = found["correlations_df"]
    return sorted(table.loc[table["score"] < found["threshold"], "property"])


if __name__ == "__main__":
    main()
