"""What the study of guided pre-training says so far, from benchmarks/results/pretraining*; measures nothing.

    python benchmarks/pretraining_summary.py

Writes the table and the figure of docs/pretraining.md. Per arm, over the seeds that have all of its runs and all of the
random arm's: accuracy, its difference from random at E epochs, and the speed-up, which is the cost of random at E over
the cost at which the arm reaches random's accuracy at E. That cost is read off the arm's own learning curve, taken as
straight in log epochs through two of its budgets, B / 2 and B: B is the shortest from which on the arm stays ahead, of
those with most seeds, or else the longest; the interval does not know of this choice:

    theta = mean(difference) / mean(slope),    epochs that the arm needs = B exp(-theta)

with difference = accuracy of arm at B - accuracy of random at E, and slope = (arm at B - arm at B / 2) / log 2. The
interval of theta is Fieller's: all values for which a paired t test over seeds on difference - theta * slope finds
nothing at 5 %. It counts the slope as the estimate that it is, and is unbounded while the slope cannot be told from 0.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from scipy import stats

import figures
import machine
from pretraining_arms import ARMS, BASE, SCALES, flops_per_step, settings_of
from pretraining_study import RESULTS

PAGE = figures.ROOT / "docs" / "pretraining.md"
LEVEL = 0.95
LARGEST = 100  # what is larger is not told
FEWEST = 3  # seeds from which a spread is told
CONTROLS = (  # what an arm adds to its control: the image's own keypoints, not gradients', or keypoints at all
    ("keypoint-high", "other-image"),
    ("keypoint-high", "gradient"),
    ("keypoint-partial", "random-partial"),
    ("keypoint-fewer", "random-fewer"),
    ("muon-keypoint-high", "muon"),
    ("muon-keypoint-high", "muon-other-image"),
    ("muon-keypoint-partial", "muon-partial"),
)
EPOCHS = (BASE.epochs, 10)  # E: of the study, and of the shorter one before it
BUDGETS = (10, 20, BASE.epochs)  # whose halves are budgets, too


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; infinite where it cannot be bounded."""

    value: float
    low: float
    high: float

    def map(self, function: Any) -> "Estimate":
        """The same through a rising function."""
        return Estimate(*(function(end) if math.isfinite(end) else end for end in (self.value, self.low, self.high)))

    def told(self, digits: int = 2, *, sign: str = "") -> str:
        """As it stands in a table."""
        if math.isnan(self.value):
            return "not told"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"{self.value:{sign}.{digits}f} (not bounded)"
        high = f"{self.high:{sign}.{digits}f}" if self.high <= LARGEST else f"over {LARGEST}"
        return f"{self.value:{sign}.{digits}f} ({self.low:{sign}.{digits}f} to {high})"


def mean_of(values: Float[np.ndarray, " seed"]) -> Estimate:
    """Mean and Student's interval."""
    n, mean = len(values), float(values.mean())
    half = critical(n) * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(mean, mean - half, mean + half)


def ratio_of(above: Float[np.ndarray, " seed"], below: Float[np.ndarray, " seed"]) -> Estimate:
    """Ratio of two means over the same seeds, and Fieller's interval."""
    n, top, bottom = len(above), float(above.mean()), float(below.mean())
    if bottom <= 0:  # an arm that learns nothing by more epochs reaches nothing by them
        return Estimate(math.nan, -math.inf, math.inf)
    if n < 2:
        return Estimate(top / bottom, -math.inf, math.inf)
    (tt, tb), (_, bb) = np.cov(above, below) * critical(n) ** 2 / n
    a, b, c = bottom**2 - bb, top * bottom - tb, top**2 - tt
    if a <= 0:
        return Estimate(top / bottom, -math.inf, math.inf)
    root = math.sqrt(max(0.0, b**2 - a * c))
    return Estimate(top / bottom, (b - root) / a, (b + root) / a)


def critical(n: int) -> float:
    """Student's quantile of n values."""
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1))


@dataclass(frozen=True)
class Costs:
    """What training takes.

    Args:
        scale: of `pretraining_arms.SCALES`.
        speed: what `pretraining_speed.py` measured of it.
    """

    scale: str
    speed: dict[str, Any] | None

    def flops(self, arm: str) -> float:
        """Of a step, by arithmetic."""
        return step_flops(self.scale, arm)

    def seconds(self, arm: str, epochs: float) -> float:
        """Wall-clock of a run from its measured parts: decoding, detection where needed, steps."""
        assert self.speed is not None
        once = self.speed["decoding_seconds"]
        once += self.speed["detection_seconds"] if settings_of(arm).needs_keypoints else 0.0
        return float(once + self.speed["steps_per_epoch"] * self.speed["arms"][arm]["seconds"] * epochs)


@cache
def step_flops(scale: str, arm: str) -> float:
    """Of a step, by arithmetic."""
    return flops_per_step(settings_of(arm, scale))


def load(metric: str, scale: str = "small") -> dict[tuple[str, int, int], Any]:
    """Runs that have a metric, by arm, epochs and seed."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS[scale].glob("*-e*-s*.json"))]
    return {(run["arm"], run["epochs"], run["seed"]): run for run in runs if metric in run}


def row_of(runs: dict[tuple[str, int, int], Any], arm: str, epochs: int, metric: str) -> dict[str, Any] | None:
    """One arm's row; None without a whole seed."""

    def scores(of: str, budget: int, seeds: list[int]) -> Float[np.ndarray, " seed"]:
        return np.array([runs[of, budget, seed][metric]["report"] for seed in seeds])

    def seeds_of(budget: int) -> list[int]:
        wanted = [("random", epochs), (arm, budget), (arm, budget // 2)]
        return [seed for seed in range(99) if all((of, e, seed) in runs for of, e in wanted)]

    shortest = epochs if arm == "random" else min(BUDGETS)
    possible = {budget: seeds_of(budget) for budget in BUDGETS if shortest <= budget <= epochs}
    most = max(len(seeds) for seeds in possible.values())
    possible = {budget: seeds for budget, seeds in possible.items() if seeds and len(seeds) == most}
    if not possible:
        return None
    ahead = {b: (scores(arm, b, seeds) - scores("random", epochs, seeds)).mean() >= 0 for b, seeds in possible.items()}
    staying = [b for b in possible if all(is_ahead for other, is_ahead in ahead.items() if other >= b)]
    budget = min(staying, default=max(possible))
    seeds = possible[budget]
    half, full, base = scores(arm, budget // 2, seeds), scores(arm, budget, seeds), scores("random", epochs, seeds)
    return {
        "seeds": len(seeds),
        "budget": budget,
        "half": half,
        "full": full,
        "difference": mean_of(full - base),
        "slope": float((full - half).mean()),
        "theta": ratio_of(full - base, (full - half) / math.log(2)) if arm != "random" else Estimate(0.0, 0.0, 0.0),
        "earlier": float(half.mean()) > float(base.mean()),  # than where the curve begins
        "later": float(full.mean()) < float(base.mean()),  # than where it ends
    }


def speed_ups(row: dict[str, Any], arm: str, epochs: int, costs: Costs) -> list[str]:
    """In epochs, FLOPs and wall-clock, as they stand in the table."""
    if row["later"] and row["budget"] < epochs:
        return ["not reached"] * (3 if costs.speed else 2)
    flops = costs.flops("random") / costs.flops(arm)
    gains = [lambda needed: epochs / needed, lambda needed: flops * epochs / needed]
    if costs.speed:
        gains.append(lambda needed: costs.seconds("random", epochs) / costs.seconds(arm, needed))
    if row["earlier"] and row["seeds"] < FEWEST:
        return ["not told"] * len(gains)
    if row["earlier"]:
        return [f"over {gain(row['budget'] / 2):.2f}" for gain in gains]
    star = "*" if row["later"] else ""
    return [row["theta"].map(lambda t, gain=gain: gain(row["budget"] * math.exp(-t))).told() + star for gain in gains]


def table(runs: dict[tuple[str, int, int], Any], costs: Costs, metric: str, epochs: int) -> str:
    """Arms in rows: accuracies in %, difference in points, speed-ups."""
    if row_of(runs, "random", epochs, metric) is None:
        return "The random arm has not one whole seed yet."
    told_in = ["epochs", "FLOPs"] + (["wall-clock"] if costs.speed else [])
    told = f"| | seeds | epochs | %, shorter | %, longer | less random at {epochs}, points |"
    told += "".join(f" speed-up in {cost} |" for cost in told_in) + "\n|---|" + "---:|" * (5 + len(told_in))
    for arm in ARMS:
        row = row_of(runs, arm, epochs, metric)
        if row is None:
            continue
        told += f"\n| {arm} | {row['seeds']} | {row['budget'] // 2}, {row['budget']} |"
        told += f" {spread(row['half'])} | {spread(row['full'])} |"
        if arm == "random":
            told += " |" * (1 + len(told_in))
            continue
        told += f" {row['difference'].map(lambda points: 100 * points).told(1, sign='+')} |"
        told += "".join(f" {told_cost} |" for told_cost in speed_ups(row, arm, epochs, costs))
    return told


def controls(runs: dict[tuple[str, int, int], Any]) -> str:
    """What decides what keypoints earn: each guided arm less its control, paired by seed."""
    told = "| | epochs | seeds | linear probe, points | k-NN, points |\n|---|---:|---:|---:|---:|"
    budgets = sorted({budget for longest in EPOCHS for budget in (longest, longest // 2)}, reverse=True)
    for epochs, (arm, control) in product(budgets, CONTROLS):
        seeds = [s for s in range(99) if all((a, epochs, s) in runs for a in (arm, control))]
        if len(seeds) < 2:
            continue
        found = []
        for metric in ("linear", "knn"):
            own, other = (np.array([runs[a, epochs, s][metric]["report"] for s in seeds]) for a in (arm, control))
            found.append(mean_of(100 * (own - other)).told(1, sign="+"))
        told += f"\n| {arm} less {control} | {epochs} | {len(seeds)} | {' | '.join(found)} |"
    return told


def every_run(runs: dict[tuple[str, int, int], Any]) -> str:
    """What has finished, whole seeds or not."""
    told = "| | epochs | seeds | linear probe, % | less random, points | k-NN, % | less random, points |\n"
    told += "|---|---:|---:|---:|---:|---:|---:|"
    for arm, budget in sorted(
        {(arm, budget) for arm, budget, _ in runs}, key=lambda key: (key[1], list(ARMS).index(key[0]))
    ):
        found = {seed: run for (a, e, seed), run in runs.items() if (a, e) == (arm, budget)}
        cells = []
        for metric in ("linear", "knn"):
            own = np.array([run[metric]["report"] for run in found.values()])
            cells += [spread(own), "" if arm == "random" else less_random(runs, arm, budget, metric)]
        told += f"\n| {arm if budget else 'untrained'} | {budget} | {len(found)} | {' | '.join(cells)} |"
    return told


def side_by_side(scale: str, costs: Costs, epochs: int) -> str:
    """Every schedule against the random arm's of E epochs, without a curve between schedules: from few seeds on."""
    less = f"less random at {epochs}, points"
    runs, tuned = load("linear", scale), load("finetune", scale)
    told = f"| | epochs | seeds | linear probe, % | {less} | k-NN, % | {less} | fine-tuned, % | {less} "
    told += f"| wall-clock of random over its |\n|---|{'---:|' * 9}"
    for arm, budget in sorted(
        {(arm, budget) for arm, budget, _ in runs if budget}, key=lambda key: (list(ARMS).index(key[0]), key[1])
    ):
        seeds = [seed for seed in range(99) if (arm, budget, seed) in runs and ("random", epochs, seed) in runs]
        if not seeds:
            continue
        told += f"\n| {arm} | {budget} | {len(seeds)} |"
        pair = ((arm, budget), ("random", epochs))
        for metric, found in (("linear", runs), ("knn", runs), ("finetune", tuned)):
            known = [seed for seed in seeds if all((*of, seed) in found for of in pair)]
            if not known:  # not fine-tuned yet
                told += " | |"
                continue
            own, base = (np.array([found[*of, seed][metric]["report"] for seed in known]) for of in pair)
            apart = "" if (arm, budget) == ("random", epochs) else mean_of(100 * (own - base)).told(1, sign="+")
            told += f" {spread(own)} | {apart} |"
        gain = costs.seconds("random", epochs) / costs.seconds(arm, budget) if costs.speed else None
        told += f" {gain:.2f}x |" if gain else " not timed |"
    return told


def less_random(runs: dict[tuple[str, int, int], Any], arm: str, budget: int, metric: str) -> str:
    """An arm's difference from random masks of the same budget, paired by seed."""
    seeds = [seed for seed in range(99) if all((a, budget, seed) in runs for a in (arm, "random"))]
    own, base = (np.array([runs[a, budget, seed][metric]["report"] for seed in seeds]) for a in (arm, "random"))
    return mean_of(100 * (own - base)).told(1, sign="+")


def finetuned_table(scale: str, costs: Costs) -> str:
    """Accuracy after fine-tuning, of the seeds that both the arm and random at E epochs have."""
    runs, longest = load("finetune", scale), BASE.epochs
    if not runs:
        return "No encoder has been fine-tuned yet."
    told = f"| | epochs | seeds | fine-tuned, % | less random at {longest}, points |\n|---|---:|---:|---:|---:|"
    for budget, arm in sorted({(e, arm) for arm, e, _ in runs}, key=lambda key: (key[0], list(ARMS).index(key[1]))):
        seeds = [s for s in range(99) if (arm, budget, s) in runs and ("random", longest, s) in runs]
        if not seeds:
            continue
        own, base = (
            np.array([runs[a, e, s]["finetune"]["report"] for s in seeds])
            for a, e in ((arm, budget), ("random", longest))
        )
        told += f"\n| {arm if budget else 'untrained'} | {budget} | {len(seeds)} | {spread(own)} | "
        told += "|" if (arm, budget) == ("random", longest) else f"{mean_of(100 * (own - base)).told(1, sign='+')} |"
    for arm in ARMS:
        row = row_of(runs, arm, longest, "finetune")
        if row is not None and arm != "random":
            found = zip(("epochs", "FLOPs", "wall-clock"), speed_ups(row, arm, longest, costs), strict=False)
            told += f"\n\nSpeed-up of {arm} by this, fine-tuning itself apart: "
            told += ", ".join(f"{gain} in {cost}" for cost, gain in found) + "."
    return told


def spread(values: Float[np.ndarray, " seed"]) -> str:
    """Mean and standard deviation over seeds, in %."""
    deviation = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.1f}{deviation}"


def resolution(runs: dict[tuple[str, int, int], Any], metric: str, epochs: int) -> str:
    """The baseline's spread over seeds, and what difference so many seeds can tell from nothing."""
    row = row_of(runs, "random", epochs, metric)
    if row is None or row["seeds"] < FEWEST:
        return "The spread over seeds takes at least three of them; it is not known yet."
    n, full = row["seeds"], row["full"]
    deviation, slope = float(full.std(ddof=1)), row["slope"] / math.log(2)
    errors = []
    for arm in ARMS:
        other = row_of(runs, arm, epochs, metric)
        if arm != "random" and other is not None and other["seeds"] >= FEWEST:
            errors.append((other["difference"].high - other["difference"].low) / 2)
    half = critical(n) * deviation * math.sqrt(2 / n)
    paired = ""
    if errors:
        reach = " to ".join(dict.fromkeys(f"{100 * end:.1f}" for end in (min(errors), max(errors))))
        paired = f"; paired by seed as they are, the intervals above reach {reach} points to either side"
    return (
        f"Over {n} seeds the random arm at {epochs} epochs has {100 * full.mean():.1f} % with a standard deviation of "
        f"{100 * deviation:.2f} points. Were arms and seeds independent, they would tell a difference of "
        f"{100 * half:.1f} points from nothing{paired}. A doubling of the epochs gains the random arm "
        f"{100 * row['slope']:.1f} points: one point is a speed-up of "
        f"{math.exp(0.01 / slope):.2f}x."
    )


def figure(runs: dict[tuple[str, int, int], Any]) -> str:
    """Accuracy against epochs, a line per arm through the means and a dot per run."""
    drawn, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axis, metric, name in zip(axes, ("linear", "knn"), ("linear probe", "k-NN"), strict=True):
        for number, arm in enumerate(ARMS):
            points = [(e, 100 * run[metric]["report"]) for (a, e, _), run in sorted(runs.items()) if a == arm]
            if not points:
                continue
            x, y = np.array(points).T
            at = np.unique(x)
            axis.plot(at, [y[x == e].mean() for e in at], "-", label=arm, color=colour(number))
            axis.plot(x, y, ".", color=colour(number), alpha=0.6)
        axis.set_xlabel("epochs of the schedule")
        axis.set_ylabel(f"{name}, % correct")
    drawn.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize="small"
    )
    return figures.save(drawn, "pretraining", "Accuracy of each arm against the epochs of its schedule")


def colour(number: int) -> tuple[float, ...]:
    """Of an arm: strong ones first, then their pale companions."""
    return tuple(plt.colormaps["tab20"].colors[(2 * number + number // 10) % 20])


def cost_figure(runs: dict[tuple[str, int, int], Any], costs: Costs) -> str:
    """Mean accuracy against wall-clock, with decoding and detection; dotted, what random reaches at its longest."""
    drawn, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axis, metric, name in zip(axes, ("linear", "knn"), ("linear probe", "k-NN"), strict=True):
        for number, arm in enumerate(ARMS):
            spent = sorted({e for a, e, _ in runs if a == arm and e})
            if not spent:
                continue
            means = [
                100 * np.mean([r[metric]["report"] for (a, e, _), r in runs.items() if (a, e) == (arm, at)])
                for at in spent
            ]
            axis.plot([costs.seconds(arm, at) / 60 for at in spent], means, ".-", label=arm, color=colour(number))
            if arm == "random":
                axis.axhline(means[-1], color=colour(number), linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        axis.minorticks_off()
        axis.set_xlabel("minutes of one core, detection included")
        axis.set_ylabel(f"{name}, % correct")
    drawn.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize="small"
    )
    return figures.save(drawn, "pretraining-cost", "Accuracy of each arm against wall-clock")


def main() -> None:
    timed = machine.RESULTS / "pretraining-speed.json"
    speed = json.loads(timed.read_text()) if timed.exists() else {}
    runs, costs = load("linear"), Costs("small", speed.get("study"))
    parts = {
        "pretraining-runs": every_run(runs),
        "pretraining-curves": figure(runs),
        "pretraining-finetuned": finetuned_table("small", costs),
        "pretraining-controls": controls(runs),
    }
    if costs.speed:
        parts["pretraining-costs"] = cost_figure(runs, costs)
    for epochs in EPOCHS:
        linear = table(runs, costs, "linear", epochs)
        parts[f"pretraining-linear-{epochs}"] = f"{linear}\n\n{resolution(runs, 'linear', epochs)}"
        parts[f"pretraining-knn-{epochs}"] = table(runs, costs, "knn", epochs)
    larger, costs = load("linear", "larger"), Costs("larger", speed.get("larger"))
    parts["pretraining-larger-linear"] = (
        f"{table(larger, costs, 'linear', BASE.epochs)}\n\n{resolution(larger, 'linear', BASE.epochs)}"
    )
    parts["pretraining-larger-knn"] = table(larger, costs, "knn", BASE.epochs)
    parts["pretraining-larger-controls"] = controls(larger)
    parts["pretraining-larger-finetuned"] = finetuned_table("larger", costs)
    parts["pretraining-wide"] = side_by_side(
        "wide-decoder", Costs("wide-decoder", speed.get("wide-decoder")), SCALES["wide-decoder"].epochs
    )
    figures.fill(PAGE, parts)


if __name__ == "__main__":
    main()
