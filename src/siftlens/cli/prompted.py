"""Reading a policy from the command line, and what a person wants to know of it when it was tried."""

import json
from contextlib import suppress
from pathlib import Path

from siftlens.core import InputError
from siftlens.prompting import Policy
from siftlens.prompting.effect import PromptEffect


def read_policy(given: str) -> Policy:
    """A policy from JSON text, from a file of it, or from the prompt.json of an earlier prompt.

    Raises:
        InputError: neither.
    """
    if given.lstrip().startswith("{"):
        return Policy.from_json(given)
    try:
        text = Path(given).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"--policy must be a JSON object or a file of one, there is no file {given!r}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"--policy must be a JSON object or a file of one, got {given[:100]!r} ({error})") from error
    with suppress(ValueError):  # which from_json tells
        if isinstance(whole := json.loads(text), dict) and "policy" in whole:  # the record of a prompt
            text = json.dumps(whole["policy"])
    return Policy.from_json(text)


def prompted(effect: PromptEffect, out: Path) -> str:
    """The effect in a few lines: where the page is, how many answers changed, and for the better or the worse."""
    table = effect.table
    changed = table[table["changed"]]
    aside = f", and {len(effect.info['set_aside'])} set aside" if effect.info["set_aside"] else ""
    lines = [
        f"report     {out / 'index.html'}",
        f"images     {len(table)}{aside}",
        f"changed    {len(changed)} answer{'' if len(changed) == 1 else 's'} ({len(changed) / len(table):.1%})",
    ]
    if effect.accuracy is not None:
        before, after = effect.accuracy
        mended = int((changed["after"] == changed["label"]).sum())
        spoilt = int((changed["before"] == changed["label"]).sum())
        lines.append(f"accuracy   {before:.1%} before, {after:.1%} after: {mended} mended, {spoilt} spoilt")
    if effect.worst is not None:
        before, after = effect.worst
        groups = "classes" if table["cues"].isna().all() else "classes with and without a suppressed cue"
        lines.append(f"worst      {before:.1%} before, {after:.1%} after, of the {groups}")
    return "\n".join(lines)
