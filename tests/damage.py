"""Damage to files and bodies that knows the form of what it damages, drawn by hypothesis.

Fields of JSON take other types or go, lines are swapped or cut, bytes change. It is drawn from
fixed seeds. `FUZZ_EXAMPLES` sets how many of each kind are tried, `FUZZ_SEED` draws others.
"""

import contextlib
import copy
import json
import os
import random
import struct
from collections.abc import Iterator

import hypothesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
limits = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def fuzz(test):
    """`test` on examples drawn from FUZZ_SEED, else from its own name."""
    drawn = os.environ.get("FUZZ_SEED")
    return limits(test if drawn is None else hypothesis.seed(int(drawn))(test))


seeds = given(seed=st.integers(0, 2**32 - 1))
ODD = (
    None,
    True,
    -1,
    0,
    2**70,
    1.5,
    float("nan"),
    "",
    "x",
    "NaN",
    "7",
    [],
    [1, "a"],
    {},
    {"a": None},
    "\x00",
    "\ud7ff\u200b",
    "../..",
    "a" * 5000,
)


def damaged_json(value: object, rng: random.Random) -> object:
    """A copy in which one to three values are of another type, gone, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = list(containers(value))
        if not places:
            return rng.choice(ODD)
        place = rng.choice(places)
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            continue
        key = rng.choice(keys)
        match rng.randint(0, 3):
            case 0 | 1:
                place[key] = copy.deepcopy(rng.choice(ODD))
            case 2:
                del place[key]
            case 3 if isinstance(place, dict):
                place[f"{key}_"] = place.pop(key)
            case _:
                place.append(copy.deepcopy(place[key]))
    return value


def containers(value: object) -> Iterator:
    """Every dict and list in a value of JSON, itself among them."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, left out, put in or cut; lines swapped, doubled or lost."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        lines = data.split(b"\n")
        match rng.randint(0, 7):
            case 0:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[at + rng.randint(1, 9) :]
            case 2:
                data = data[:at]
            case 3:
                odd = (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\t", b"\r\n", b"[" * 3000)
                data = data[:at] + rng.choice(odd) + data[at:]
            case 4:
                lines.insert(rng.randrange(len(lines)), rng.choice(lines))
                data = b"\n".join(lines)
            case 5:
                lines.pop(rng.randrange(len(lines)))
                data = b"\n".join(lines)
            case 6:
                rng.shuffle(lines)
                data = b"\n".join(lines)
            case 7:
                data = data.replace(b"\n", rng.choice((b"\r", b"\r\n", b"\n\n")))
    return data


def damaged_text(data: bytes, rng: random.Random) -> bytes:
    """JSON with other values, or other bytes."""
    if rng.random() < 0.6:
        lines = data.splitlines() if data.count(b"\n") > 1 and data[:1] == b"{" else None
        with contextlib.suppress(ValueError):
            if lines is None or b"\n " in data:
                return json.dumps(damaged_json(json.loads(data), rng)).encode()
            at = rng.randrange(len(lines))
            lines[at] = json.dumps(damaged_json(json.loads(lines[at]), rng)).encode()
            return b"\n".join(lines) + b"\n"
    return damaged_bytes(data, rng)


def damaged_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header with other values or another length, or other bytes."""
    (size,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + size]
    if rng.random() < 0.7:
        header = json.dumps(damaged_json(json.loads(header), rng)).encode()
    elif rng.random() < 0.5:
        header = damaged_bytes(header, rng)
    shown = len(header) if rng.random() < 0.8 else rng.choice((0, 1, 2**63, len(data)))
    return struct.pack("<Q", shown) + header + data[8 + size :]
