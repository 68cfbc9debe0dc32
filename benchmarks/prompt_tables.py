"""The summary of the study of prompting as tables of Markdown: head-room first, then what recovers it."""

from collections.abc import Sequence
from typing import Any

from prompt_arms import ARMS, ORACLES

Summary = dict[str, Any]


def tables(summary: Summary) -> dict[str, str]:
    """The parts of docs/prompt-study.md, by the names of their markers."""
    return {
        "prompt-pooled": pooled(summary),
        "prompt-tuned": tuned(summary),
        "prompt-room": head_room(summary),
        "prompt-arms": arms(summary),
        "prompt-operators": operators(summary["biased"]),
        "prompt-groups": by_group(summary),
        "prompt-arm-groups": arms_by_group(summary["biased"]),
        "prompt-heads": heads(summary["heads"]),
    }


def pooled(summary: Summary) -> str:
    """All models together: what was aimed at."""
    biased, unbiased = summary["biased"], summary["unbiased"]
    rows = [
        ["share of the oracle's gain that the tuned prompt recovers", "60 %", share(biased["recovered"])],
        ["its change of the average, points", "not below 0", points(biased["average_change"], 1)],
        [
            f"in the {biased['acting']['runs']} where it acts: change on data as biased as the model's own, points",
            "",
            points(biased["acting"]["as_biased_change"], 1),
        ],
        *(
            [f"gain by keypoints over that by {rival} at equal area, points", "above 0", points(gain)]
            for rival, gain in biased["keypoints_over"].items()
        ),
    ]
    left_alone = ["models left alone", "", f"{unbiased['abstained']} of {unbiased['runs']}"]
    changed = ["largest change of the average, points", "below 0.5", number(100 * unbiased["largest_change"], 1)]
    return table(
        ["models", "what", "target", "measured"],
        [[f"{biased['runs']} biased, with head-room", *row] for row in rows]
        + [[f"{unbiased['runs']} unbiased", *row] for row in (left_alone, changed)],
    )


def head_room(summary: Summary) -> str:
    """Gain of the worst group by the oracle, per operator; in brackets where it is too small to say anything."""
    names = list(summary["settings"][0]["operators"])
    rows = [
        [*named(setting), points(setting["none"]["worst"])]
        + [
            f"({points(found['head_room'])})" if found["says_nothing"] else points(found["head_room"])
            for found in setting["operators"].values()
        ]
        for setting in summary["settings"]
    ]
    return table([*HEADINGS, "worst group, no prompt", *names], rows)


def tuned(summary: Summary) -> str:
    """What the prompt that an audit tuned does."""
    rows = []
    for setting in summary["settings"]:
        found = setting["tuned"]
        rows.append(
            [
                *named(setting),
                f"{setting['audits_with_harmful_cues']} of {setting['runs']}",
                f"{found['abstained']} of {setting['runs']}",
                points(found["gain"]),
                points(found["average_change"], 1),
                f"{points(setting['none']['gap'])} to {points(found['gap'])}",
                share(found["recovered"]),
            ]
        )
    headings = ["audits with harm", "did nothing", "gain of the worst group", "of the average", "gap, before to after"]
    headings.append("share of the oracle's gain")
    return table([*HEADINGS, *headings], rows)


def arms(summary: Summary) -> str:
    """Gain of the worst group by arm, under the operator with the most head-room."""
    rows = []
    for setting in summary["settings"]:
        name = setting["tuned"]["oracle_operator"]
        found = setting["operators"][name]
        if not found["says_nothing"]:
            rows.append([*named(setting), name, *(points(found["arms"][arm]["gain"]) for arm in ARMS)])
    return table([*HEADINGS, "by", *(f"*{arm}*" if arm in ORACLES else arm for arm in ARMS)], rows)


def operators(biased: Summary) -> str:
    """Every operator with every arm, over all biased models with head-room: worst group, average and gap."""
    rows = []
    for name, found in biased["operators"].items():
        for arm in ARMS:
            told = found["arms"][arm]
            over = [points(found["keypoints_over"][arm])] if arm in found["keypoints_over"] else [""]
            rows.append([name, arm, *(points(told[what]) for what in ("gain", "average", "gap")), *over])
    headings = ["operator", "map", "gain of the worst group", "average", "gap", "keypoints over it"]
    return table(headings, rows)


def by_group(summary: Summary) -> str:
    """Accuracy of the four groups, of class 0 and 1 without and with the cue, before and under the tuned prompt."""
    rows = [
        [*named(setting), *(points(group) for when in ("none", "tuned") for group in setting[when]["groups"])]
        for setting in summary["settings"]
    ]
    return table([*HEADINGS, *GROUPS, *(f"tuned: {group}" for group in GROUPS)], rows)


def arms_by_group(biased: Summary) -> str:
    """Accuracy of the four groups under every operator with every arm, over all biased models with head-room."""
    rows = [
        [name, arm, *(points(group) for group in found[arm])]
        for name, found in biased["groups"].items()
        for arm in ARMS
    ]
    return table(["operator", "map", *GROUPS], rows)


def heads(found: dict[str, Any]) -> str:
    """How statistics of heads go with what switching them off does."""
    rows = [
        [
            name,
            str(row["runs"]),
            number(row["mean"]),
            "" if row["low"] is None else f"[{number(row['low'])}, {number(row['high'])}]",
        ]
        for name, row in found["correlations"].items()
    ]
    return table(["statistic", "models", "mean correlation over models", "95 %"], rows)


HEADINGS = ["images", "cue", "correlation", "runs"]
GROUPS = [f"class {label}, {cue} cue" for label in (0, 1) for cue in ("no", "with")]


def named(setting: dict[str, Any]) -> list[str]:
    images = {"DrawnMaterial": "drawn", "FolderMaterial": "real"}[setting["material"]]
    return [images, setting["cue"], f"{setting['correlation']:.2f}", str(setting["runs"])]


def points(interval: dict[str, Any], places: int = 0) -> str:
    """Percentage points, with the interval where there is one."""
    mean, low, high = (
        None if interval[name] is None else number(100 * interval[name], places) for name in ("mean", "low", "high")
    )
    return f"{mean}" if low is None else f"{mean} [{low}, {high}]"


def share(found: dict[str, Any]) -> str:
    """A share of the oracle's gain; nothing without head-room."""
    if found["share"] is None:
        return ""
    told = f"{100 * found['share']:.0f} %"
    return told if found["low"] is None else f"{told} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def number(value: float | None, places: int = 2) -> str:
    """With so many decimals; no minus before a nought."""
    return "" if value is None else f"{round(value, places) + 0.0:.{places}f}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, numbers right."""
    lines = [headings, ["---"] * 2 + ["---:"] * (len(headings) - 2), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
