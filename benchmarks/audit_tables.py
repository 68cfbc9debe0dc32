"""Sum up the runs of `audit_study.py`, and put them and what stands beside them into docs/audit-study.md.

Usage: python benchmarks/audit_tables.py

Measures nothing. Writes benchmarks/results/audit.json.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import audit_ways
from audit_study import RUNS
from figures import fill
from machine import RESULTS, save_result
from siftlens.auditing.tables import RELIED_ON

PAGE = Path(__file__).parent.parent / "docs" / "audit-study.md"
FOUND = 0.7  # AUROC from which a cue that is relied on counts as the planted one
OFF = 0.75  # share of a cue's patches off the object from which relying on it is a false discovery in a null run
STRONG = 0.9  # correlation from which the planted cue should be found
DOSES = (0.5, 0.7, 0.9, 0.95, 1.0)  # correlations, each held against the next
LEANS = 0.1  # accuracy that a model must lose on images against the cue, to count as leaning on it

ENDS = {"low": -1, "high": 1}  # of an interval

Run = dict[str, Any]


def main() -> None:
    runs = [json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))]
    result = {
        "runs": len(runs),
        "found_from_auroc": FOUND,
        "claims": claims(runs),
        "table": table(runs),
        "dose": dose(runs),
    }
    print(save_result("audit", result))
    parts = {
        "audit-claims": claims_table(result["claims"]),
        "audit-aims": aims(result["claims"]),
        "audit-runs": runs_table(result["table"]),
        "audit-dose": dose_table(result["dose"]),
    }
    for name, told in (("audit-ways", ways_table), ("audit-peers", peers_table)):
        path = RESULTS / f"{name}.json"
        if path.exists():
            parts[name] = told(json.loads(path.read_text()))
    fill(PAGE, parts)


def claims(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What was aimed at, and what came: shares of runs with Clopper-Pearson intervals, AUROC by run."""
    strong = [run for run in runs if run["correlation"] >= STRONG]
    artefacts = [run for run in strong if run["cue"] in ("glyph", "patch")]
    leaned = [run for run in artefacts if leans(run)]
    scenes = [run for run in strong if run["cue"] == "scene" and run["material"] == "FolderMaterial"]
    null = [run for run in runs if run["correlation"] == 0.5]
    whole = [run for run in strong if run["cue"] in ("tint", "blur")]
    shuffled = [relied(run, "shuffled labels") for run in runs]
    return [
        claim("glyph or patch: the planted cue comes first", "95 %", (rank(run) == 1 for run in artefacts)),
        claim("glyph or patch, of models that lean on it: the same", "95 %", (rank(run) == 1 for run in leaned)),
        claim(
            "glyph or patch, of models that lean on it: AUROC of the first cue's patches",
            "mean of 0.90",
            [a >= 0.9 for a in aurocs(leaned)],
            aurocs(leaned),
        ),
        claim("scene of photographs: among the first three", "90 %", ((rank(run) or 9) <= 3 for run in scenes)),
        claim(
            "scene of photographs: AUROC of the first cue's patches",
            "mean of 0.80",
            [a >= 0.8 for a in aurocs(scenes)],
            aurocs(scenes),
        ),
        claim("labels shuffled: anything is relied on", "at most 5 %", (bool(cues) for cues in shuffled)),
        claim(
            "correlation 0.5: a cue is relied on that holds nothing of the object",
            "at most 5 %",
            (off(run, "clear_of_object") for run in null),
        ),
        claim(
            "correlation 0.5: a cue is relied on that is mostly beside the object",
            "at most 5 %",
            (off(run, "off_object") for run in null),
        ),
        claim("tint or blur: patches beside the object are blamed", "never", (off(run, "off_object") for run in whole)),
    ]


def claim(name: str, target: str, hits: Iterable[bool], values: Sequence[float] = ()) -> dict[str, Any]:
    """One line of the claims."""
    found: dict[str, Any] = {"claim": name, "target": target} | rate(hits)
    if len(values):
        found |= {"mean": round(float(np.mean(values)), 3), "least": round(min(values), 3)}
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        found |= {f"mean_{end}": round(float(np.mean(values) + side * half), 3) for end, side in ENDS.items()}
    return found | {"standing": standing(found)}


def standing(line: dict[str, Any]) -> str:
    """Whether a target is reached: told where the whole 95 % interval, of the share or of the mean, is on one side."""
    target = line["target"]
    if target == "never":
        return "missed" if line["hits"] else "not told yet"
    if target.startswith("mean of"):
        if "mean_low" not in line:
            return "not told yet"
        limit, low, high = float(target.removeprefix("mean of")), line["mean_low"], line["mean_high"]
    else:
        limit, low, high = float(target.removeprefix("at most").removesuffix("%")) / 100, line["low"], line["high"]
    if target.startswith("at most"):
        low, high, limit = -high, -low, -limit
    return "reached" if low >= limit else "missed" if high < limit else "not told yet"


def leans(run: Run) -> bool:
    """Whether a model is worse where the cue speaks against the label."""
    first, second, third, fourth = run["group_accuracy"]
    return bool((first + fourth - second - third) / 2 >= LEANS)


def relied(run: Run, way: str = "all") -> list[dict[str, Any]]:
    """Cues that an audit says the model relies on."""
    return [cue for cue in run["audits"][way]["cues"] if cue["verdict"] in RELIED_ON]


def off(run: Run, where: str) -> bool:
    """Whether a cue is relied on that lies off the object."""
    return any((cue[where] or 0) >= OFF for cue in relied(run))


def rank(run: Run, way: str = "all") -> int | None:
    """Rank of the planted cue within its class: another class has cues of its own."""
    for label in (0, 1):
        mine = [cue for cue in run["audits"][way]["cues"] if cue["label"] == label]
        places = (
            place + 1 for place, cue in enumerate(mine) if cue["verdict"] in RELIED_ON and (cue["auroc"] or 0) >= FOUND
        )
        if (place := next(places, None)) is not None:
            return place
    return None


def aurocs(runs: Sequence[Run]) -> list[float]:
    """For every run, of the first cue of the class that knows the planted one best."""
    best = []
    for run in runs:
        cues = run["audits"]["all"]["cues"]
        firsts = [next((cue for cue in cues if cue["label"] == label), None) for label in (0, 1)]
        best.append(max((cue["auroc"] or 0.5 for cue in firsts if cue), default=0.5))
    return best


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A line for each material, cue and correlation."""
    lines = []
    key = lambda run: (run["material"], run["cue"], run["correlation"])  # noqa: E731
    for (material, cue, correlation), group in itertools.groupby(sorted(runs, key=key), key):
        members = list(group)
        audits = [run["audits"]["all"] for run in members]
        lines.append(
            {
                "material": material,
                "cue": cue,
                "correlation": correlation,
                "runs": len(members),
                "group_accuracy": np.mean([run["group_accuracy"] for run in members], axis=0).round(3).tolist(),
                "first": sum(rank(run) == 1 for run in members),
                "among_three": sum((rank(run) or 9) <= 3 for run in members),
                "auroc_of_first": mean(aurocs(members)),
                "precision_at_3": mean(
                    [np.mean([(c["auroc"] or 0) >= FOUND for c in a["cues"][:3]]) for a in audits if a["cues"]]
                ),
                "dependence": mean([dependence(run) for run in members]),
                "misled_auroc": mean([audit["misled_auroc"] for audit in audits]),
                "passes_per_image": mean([audit["passes_per_image"] for audit in audits]),
            }
        )
    return lines


def dose(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """How the planted cue's dependence grows with the correlation, in models that differ in nothing else."""
    lines = []
    of_run = {(run["material"], run["cue"], run["correlation"], run["seed"]): dependence(run) for run in runs}
    for material, cue in sorted({key[:2] for key in of_run}):
        if cue in ("tint", "blur"):
            continue
        for low, high in itertools.pairwise(DOSES):
            seeds = [
                seed for *rest, seed in of_run if rest == [material, cue, low] and (material, cue, high, seed) in of_run
            ]
            grown = [of_run[material, cue, high, seed] - of_run[material, cue, low, seed] for seed in seeds]
            if grown:
                lines.append(
                    {"material": material, "cue": cue, "from": low, "to": high, "mean": mean(grown)}
                    | rate(value > 0 for value in grown)
                )
    return lines


def dependence(run: Run) -> float:
    """Of the first cue that is relied on and marks the planted one; 0 where there is none."""
    return float(next((cue["dependence"] for cue in relied(run) if (cue["auroc"] or 0) >= FOUND), 0.0))


def dose_table(lines: Sequence[dict[str, Any]]) -> str:
    """Growth of the dependence, as Markdown."""
    told = "| images | cue | correlation | models | growth of the dependence, mean | it grows (95 % interval) |\n"
    told += "|---|---|---|---:|---:|---:|"
    for line in lines:
        where = "drawn" if line["material"] == "DrawnMaterial" else "real"
        share = f"{line['hits']} of {line['runs']} ({100 * line['low']:.0f} to {100 * line['high']:.0f} %)"
        told += f"\n| {where} | {line['cue']} | {line['from']:.2f} to {line['to']:.2f} | {line['runs']} "
        told += f"| {line['mean']:+.2f} | {share} |"
    return told


def rate(hits: Iterable[bool]) -> dict[str, float | int]:
    """Share of the runs with its 95 % Clopper-Pearson interval."""
    values = list(hits)
    n, k = len(values), sum(values)
    low = float(stats.beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(stats.beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return {"hits": k, "runs": n, "low": round(low, 3), "high": round(high, 3)}


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what is known."""
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 3) if known else None


def claims_table(lines: Sequence[dict[str, Any]]) -> str:
    """The claims as Markdown."""
    told = "| claim | target | runs | share (95 % interval) | AUROC, mean (least) |\n|---|---|---:|---:|---:|"
    for line in lines:
        share = f"{line['hits']} of {line['runs']} ({100 * line['low']:.0f} to {100 * line['high']:.0f} %)"
        value = f"{line['mean']:.2f} ({line['least']:.2f})" if "mean" in line else ""
        told += f"\n| {line['claim']} | {line['target']} | {line['runs']} | {share} | {value} |"
    return told


def aims(lines: Sequence[dict[str, Any]]) -> str:
    """Which targets are reached, as a list."""
    told = []
    for standing in ("reached", "missed", "not told yet"):
        mine = [line for line in lines if line["standing"] == standing]
        named = (
            f"{line['claim']} ("
            + (
                f"{line['mean']:.2f}, {line['mean_low']:.2f} to {line['mean_high']:.2f}, in {line['runs']} runs"
                if "mean_low" in line
                else f"{line['hits']} of {line['runs']}"
            )
            + f"; wanted: {line['target']})"
            for line in mine
        )
        told.append(f"- **{standing.capitalize()}**: " + ("; ".join(named) or "none") + ".")
    return "\n".join(told)


def runs_table(lines: Sequence[dict[str, Any]]) -> str:
    """The cells as Markdown."""
    told = (
        "| images | cue | correlation | runs | accuracy of the four groups | first | among three | AUROC of the "
        "first | precision at 3 | dependence | misled, AUROC |\n|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|"
    )
    for line in lines:
        where = "drawn" if line["material"] == "DrawnMaterial" else "real"
        cells = [where, line["cue"], f"{line['correlation']:.2f}", line["runs"]]
        cells.append(", ".join(f"{a:.2f}" for a in line["group_accuracy"]))
        cells += [line["first"], line["among_three"]]
        names = ("auroc_of_first", "precision_at_3", "dependence", "misled_auroc")
        cells += ["" if line[name] is None else f"{line[name]:.2f}" for name in names]
        told += f"\n| {' | '.join(str(cell) for cell in cells)} |"
    return told


def ways_table(result: dict[str, Any]) -> str:
    """Words and measures of use as Markdown."""
    return f"{audit_ways.table(result['rows'])}\n\nAUROC of the first candidate / of the best of five."


def peers_table(result: dict[str, Any]) -> str:
    """Other ways to look, as Markdown."""
    names = list(result["rows"][0]["auroc"])
    told = f"| cue, seed | {' | '.join(names)} | properties: siftlens | Datalab |\n|---|{'---:|' * len(names)}---|---|"
    for row in result["rows"]:
        scores = " | ".join("" if row["auroc"][name] is None else f"{row['auroc'][name]:.2f}" for name in names)
        flags = " | ".join(
            ", ".join(name.removesuffix("_score") for name in found) or "none" for found in row["properties"].values()
        )
        told += f"\n| {row['cue']}, {row['seed']} | {scores} | {flags} |"
    told += "\n\n| way | seconds | peak memory, MB |\n|---|---:|---:|"
    for way in result["rows"][0]["cost"]:
        seconds, peak = (
            np.median([row["cost"][way][name] for row in result["rows"]]) for name in ("seconds", "peak_mb")
        )
        told += f"\n| {way} | {seconds:.1f} | {peak:.0f} |"
    return told


if __name__ == "__main__":
    main()
