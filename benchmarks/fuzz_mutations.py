"""Damage, drawn by chance: to bytes, and to what JSON text says."""

import json
from copy import deepcopy
from typing import Any

import numpy as np

_EXTREME = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\x80")
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**64, 1e308, float("nan"), float("inf"), "", "x", "<script>", "\0", "../../x"),
    *([], {}, [[]], {"": None}, [None] * 3, {"format": 1}),
)


def damaged(whole: bytes, random: np.random.Generator, *, is_json: bool) -> bytes:
    """The file after one to four accidents; half of the time those of JSON text keep it JSON."""
    if is_json and random.random() < 0.5:
        return _other_values(whole, random)
    data = whole
    for _ in range(int(random.integers(1, 5))):
        data = _accident(data, random)
    return data


def _accident(data: bytes, random: np.random.Generator) -> bytes:
    if not data:
        return random.bytes(int(random.integers(1, 64)))
    place, end = _place(len(data), random), _place(len(data), random)
    first, last = min(place, end), max(place, end)
    match int(random.integers(8)):
        case 0:  # one bit
            return data[:place] + bytes([data[place] ^ 1 << int(random.integers(8))]) + data[place + 1 :]
        case 1:  # one byte
            return data[:place] + random.bytes(1) + data[place + 1 :]
        case 2:  # a number of four bytes
            return data[:place] + _EXTREME[int(random.integers(len(_EXTREME)))] + data[place + 4 :]
        case 3:  # cut off
            return data[:place]
        case 4:  # a piece gone
            return data[:first] + data[last:]
        case 5:  # a piece twice
            return data[:last] + data[first : min(last, first + 4096)] + data[last:]
        case 6:  # something between
            return data[:place] + random.bytes(int(random.integers(1, 64))) + data[place:]
        case _:  # a block of zeros, as a lost write leaves
            return data[:first] + bytes(min(last - first, 512)) + data[first + min(last - first, 512) :]


def _place(length: int, random: np.random.Generator) -> int:
    """Anywhere, but two times in three near one of the ends, where formats keep what all else hangs on."""
    near = min(length, 256)
    where = int(random.integers(3))
    if where == 0:
        return int(random.integers(length))
    return int(random.integers(near)) if where == 1 else length - 1 - int(random.integers(near))


def _other_values(text: bytes, random: np.random.Generator) -> bytes:
    """One or two values replaced by others, or gone."""
    whole = {"": json.loads(text)}
    for _ in range(int(random.integers(1, 3))):
        holder, key = _any_place(whole, random)
        if key == "" or random.random() < 0.8:
            holder[key] = deepcopy(_VALUES[int(random.integers(len(_VALUES)))])
        else:
            del holder[key]
    return json.dumps(whole[""]).encode()


def _any_place(whole: dict[str, Any], random: np.random.Generator) -> tuple[Any, Any]:
    """A place in nested dicts and lists; every level may be the last."""
    holder: Any = whole
    key: Any = ""
    while isinstance(holder[key], dict | list) and holder[key] and random.random() < 0.8:
        holder = holder[key]
        key = (
            list(holder)[int(random.integers(len(holder)))]
            if isinstance(holder, dict)
            else int(random.integers(len(holder)))
        )
    return holder, key
