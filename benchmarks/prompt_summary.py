"""Sums the runs of the study of prompting up: head-room first, then every arm, with intervals over seeds."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from prompt_arms import ARMS, FOVEAL, OPERATORS, ORACLES

HEAD_ROOM = 0.10  # gain of the worst group by the oracle, below which a setting says nothing
DRAWS, FEWEST = 2000, 5  # of the bootstrap, and runs from which it is made
RIVALS = ("random", "centre", "gradient")
Run = dict[str, Any]


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that the docs show."""
    key = lambda run: (run["material"], run["cue"], run["correlation"])  # noqa: E731
    settings = [
        {"material": material, "cue": cue, "correlation": correlation, "runs": len(members)} | setting(members)
        for (material, cue, correlation), group in itertools.groupby(sorted(runs, key=key), key)
        for members in [list(group)]
    ]
    biased = [run for run in runs if run["correlation"] > 0.5]
    return {
        "runs": len(runs),
        "head_room_asked": HEAD_ROOM,
        "settings": settings,
        "unbiased": left_alone([run for run in runs if run["correlation"] == 0.5]),
        "biased": pooled([run for run in biased if most_room(run)[1] >= HEAD_ROOM]),
        "heads": heads(biased),
    }


def pooled(runs: list[Run]) -> dict[str, Any]:
    """All biased runs whose own oracle has head-room, each by the operator that gives it most."""
    best = [most_room(run) for run in runs]
    tuned = [min(run["tuned"]["groups"]) - min(run["none"]) for run in runs]
    keypoints = [min(run["arms"]["keypoints"][name]) for run, (name, _) in zip(runs, best, strict=True)]
    return {
        "runs": len(runs),
        "recovered": recovered(tuned, [gain for _, gain in best]) if runs else recovered([0.0], [0.0]),
        "average_change": interval([mean(run["tuned"]["groups"]) - mean(run["none"]) for run in runs]),
        "acting": acting([run for run in runs if not abstained(run)]),
        "operators": {name: operator(runs, name) for name in (*OPERATORS, FOVEAL)} if runs else {},
        "groups": {
            name: {arm: each_group([run["arms"][arm][name] for run in runs])["groups"] for arm in ARMS}
            for name in (*OPERATORS, FOVEAL)
        }
        if runs
        else {},
        "keypoints_over": {
            rival: interval(
                [own - min(run["arms"][rival][name]) for own, run, (name, _) in zip(keypoints, runs, best, strict=True)]
            )
            for rival in RIVALS
        },
    }


def acting(runs: list[Run]) -> dict[str, Any]:
    """What tuned prompts that do something cost where the cue goes on holding: groups as in the model's own data."""
    changes = [as_biased(run, run["tuned"]["groups"]) - as_biased(run, run["none"]) for run in runs]
    return {
        "runs": len(runs),
        "as_biased_change": interval(changes),
        "least": round(max(changes, default=0.0), 4),
        "most": round(min(changes, default=0.0), 4),
    }


def as_biased(run: Run, groups: Sequence[float]) -> float:
    """Accuracy where the cue agrees with the class as often as it did when the model was trained."""
    agrees = run["correlation"]
    return float(np.dot([agrees / 2, (1 - agrees) / 2, (1 - agrees) / 2, agrees / 2], groups))


def left_alone(runs: list[Run]) -> dict[str, Any]:
    """What tuning does to models that nothing was planted in."""
    changes = [mean(run["tuned"]["groups"]) - mean(run["none"]) for run in runs]
    return {
        "runs": len(runs),
        "abstained": sum(abstained(run) for run in runs),
        "largest_change": round(max(map(abs, changes), default=0.0), 4),
    }


def abstained(run: Run) -> bool:
    """Whether tuning chose to do nothing."""
    return set(run["tuned"]["policy"]) <= {"maps"}


def most_room(run: Run) -> tuple[str, float]:
    """The operator by which a run's oracle gains most in the worst group, and how much."""
    gains = {name: oracle_gains([run], name)[0] for name in (*OPERATORS, FOVEAL)}
    best = max(gains, key=lambda name: gains[name])
    return best, gains[best]


def setting(runs: list[Run]) -> dict[str, Any]:
    """One material, cue and correlation."""
    operators = {name: operator(runs, name) for name in (*OPERATORS, FOVEAL)}
    best = max(operators, key=lambda name: operators[name]["head_room"]["mean"])
    return {
        "none": figures([run["none"] for run in runs]) | each_group([run["none"] for run in runs]),
        "operators": operators,
        "tuned": figures([run["tuned"]["groups"] for run in runs])
        | each_group([run["tuned"]["groups"] for run in runs])
        | {
            "gain": interval([min(run["tuned"]["groups"]) - min(run["none"]) for run in runs]),
            "average_change": interval([mean(run["tuned"]["groups"]) - mean(run["none"]) for run in runs]),
            "oracle_operator": best,
            "recovered": recovered(
                [min(run["tuned"]["groups"]) - min(run["none"]) for run in runs], oracle_gains(runs, best)
            ),
            "abstained": sum(abstained(run) for run in runs),
            "kinds": [sorted(set(run["tuned"]["policy"]) - {"maps"}) for run in runs],
        },
        "audits_with_harmful_cues": sum(bool(run["harmful_cues"]) for run in runs),
    }


def operator(runs: list[Run], name: str) -> dict[str, Any]:
    """What one operator does with each arm's maps; the oracle is the better one of both in each run."""
    oracle = oracle_gains(runs, name)
    head_room = interval(oracle)
    told = {arm: figures([run["arms"][arm][name] for run in runs]) for arm in ARMS}
    for arm in ARMS:
        gains = [min(run["arms"][arm][name]) - min(run["none"]) for run in runs]
        told[arm] |= {"gain": interval(gains), "recovered": recovered(gains, oracle)}
    return {
        "head_room": head_room,
        "says_nothing": bool(head_room["mean"] < HEAD_ROOM),
        "arms": told,
        "keypoints_over": {
            rival: interval([min(run["arms"]["keypoints"][name]) - min(run["arms"][rival][name]) for run in runs])
            for rival in RIVALS
        },
    }


def oracle_gains(runs: list[Run], name: str) -> list[float]:
    return [max(min(run["arms"][arm][name]) for arm in ORACLES) - min(run["none"]) for run in runs]


def figures(groups: list[list[float]]) -> dict[str, Any]:
    """Worst-group and average accuracy, and the gap between cues that agree and cues drawn by lot."""
    return {
        "worst": interval([min(four) for four in groups]),
        "average": interval([mean(four) for four in groups]),
        "gap": interval([mean([four[0], four[3]]) - mean(four) for four in groups]),
    }


def each_group(groups: list[list[float]]) -> dict[str, Any]:
    """Accuracy of each of the four groups."""
    return {"groups": [interval([four[group] for four in groups]) for group in range(4)]}


def heads(runs: list[Run]) -> dict[str, Any]:
    """Over the heads of a model: how a statistic goes with what switching the head off does to images against the cue.

    Spearman's correlation in each run, and its mean over runs with an interval; positive: the higher the statistic, the
    more these images gain without the head.
    """
    told: dict[str, Any] = {}
    for name in ("keypoint_pull", "cue_mass", "true_cue_mass"):
        found = [one for run in runs if (one := correlation_of(run, lambda head, name=name: head[name])) is not None]
        told[name] = interval(found) | {"runs": len(found)}
    largest = [max(gain_without(run, head) for head in run["heads"]) for run in runs]
    return {"correlations": told, "largest_gain_by_one_head": interval(largest)}


def correlation_of(run: Run, statistic: Callable[[dict[str, Any]], float | None]) -> float | None:
    values = [statistic(head) for head in run["heads"]]
    gains = [gain_without(run, head) for head in run["heads"]]
    if any(value is None for value in values) or len(set(values)) < 2 or len(set(gains)) < 2:
        return None
    return float(stats.spearmanr(values, gains).statistic)


def gain_without(run: Run, head: dict[str, Any]) -> float:
    """Accuracy on images that go against the cue without a head, minus that with it."""
    return mean(head["groups"][1:3]) - mean(run["none"][1:3])


def recovered(gains: list[float], oracle: list[float]) -> dict[str, float | None]:
    """Mean gain over the oracle's, with a 95 % percentile interval of a bootstrap over runs; None without head-room.

    No interval of fewer than five runs: drawn anew, the oracle's gain can come near nought.
    """
    if np.mean(oracle) < HEAD_ROOM:
        return {"share": None, "low": None, "high": None}
    share = round(float(np.mean(gains) / np.mean(oracle)), 3)
    if len(gains) < FEWEST:
        return {"share": share, "low": None, "high": None}
    random = np.random.default_rng(0)
    drawn = random.integers(len(gains), size=(DRAWS, len(gains)))
    shares = np.array(gains)[drawn].mean(axis=1) / np.maximum(np.array(oracle)[drawn].mean(axis=1), 1e-6)
    low, high = np.quantile(shares, [0.025, 0.975])
    return {"share": share, "low": round(float(low), 3), "high": round(float(high), 3)}


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over runs and its 95 % interval by Student's t, of three runs or more: with two it says nothing."""
    if len(values) < 3:
        return {"mean": round(mean(values), 4) if len(values) else None, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": round(mean(values), 4), "low": round(mean(values) - half, 4), "high": round(mean(values) + half, 4)}


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
