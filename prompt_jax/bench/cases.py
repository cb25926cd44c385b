"""The benchmarks by name: each gives the rows of its report.

All run on random weights and random tokens, so that they need no file.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.bench import peft
from prompt_jax.bench.lengths import LEVELS, TASKS, Lengths
from prompt_jax.bench.measure import Row, compared, exponent, rates
from prompt_jax.bench.steps import Shape, Stepping, random_model, shapes_of
from prompt_jax.errors import UserError
from prompt_jax.model import decode
from prompt_jax.model.sizes import SIZES
from prompt_jax.model.t5 import T5Config
from prompt_jax.settings import settings

PADDED_TO = 512
FULL = Lengths((128,) * len(LEVELS), (16,))  # no padding anywhere
PEAK_SIDE = 1024  # of the square matrices whose product is the peak


@settings
class Bench:
    """What a benchmark runs on.

    Attributes:
      size: the T5's shape, a name of `prompt_jax.model.sizes`.
      prompt: rows of the prompt.
      columns: encoder columns of a packed step, those of prompts not among them.
      batch: examples of a padded step.
      rounds: how often every side is measured.
      tasks: those of `tasks`.
      against: the other side; None: ours alone.
    """

    size: str = "t5_small"
    prompt: int = 100
    columns: int = 4096
    batch: int = 8
    rounds: int = 5
    tasks: tuple[str, ...] = tuple(TASKS)
    against: str | None = None

    def check(self):
        _known("--size", self.size, SIZES)
        for task in self.tasks:
            _known("--tasks", task, TASKS)
        for name in ("prompt", "columns", "batch", "rounds"):
            if vars(self)[name] < 1:
                raise UserError(f"--{name}={vars(self)[name]}", remedy="give at least 1")
        if self.against is not None:
            _known("--against", self.against, ("peft",))
            peft.check()

    @property
    def config(self) -> T5Config:
        """The T5's shape, in float32 without dropout."""
        return dataclasses.replace(SIZES[self.size], dtype="float32", dropout_rate=0.0)


def _known(flag: str, name: str, names: Any) -> None:
    if name not in names:
        raise UserError(f"{flag}={name}", "unknown", f"give one of {', '.join(names)}")


def step(bench: Bench) -> list[Row]:
    """A step of `batch` rows of 128 and 16 tokens, without padding."""
    ours = Stepping(random_model(bench.config), bench.config, _padded(bench), FULL)
    sides: dict[str, Any] = {"ours": ours}
    if bench.against:
        sides["peft"] = peft.PeftStepping(bench.config, FULL, bench.batch, bench.prompt, None)
    measured = rates(sides, bench.rounds)
    case = f"{bench.size}, {bench.batch} rows of 128 and 16"
    return [compared(case, measured["ours"], measured.get("peft"), "examples/s")]


def _padded(bench: Bench) -> Shape:
    return Shape(bench.batch, 128, 16, packed=False, prompt=bench.prompt)


def tasks(bench: Bench) -> list[Row]:
    """Packed rows of real tasks' lengths: a prompt computed once against one beside each example,
    and both against PEFT."""
    model, rows = random_model(bench.config), []
    for task in bench.tasks:
        lengths = TASKS[task]
        shapes = shapes_of(lengths, bench.columns, bench.prompt)
        sides: dict[str, Any] = {
            name: Stepping(model, bench.config, shape, lengths) for name, shape in shapes.items()
        }
        if bench.against:
            args = (bench.config, lengths, bench.batch, bench.prompt)
            sides["longest"] = peft.PeftStepping(*args, None)
            sides[str(PADDED_TO)] = peft.PeftStepping(*args, PADDED_TO)
        measured = rates(sides, bench.rounds)
        named = [("once", "packed", f"{task}: computed once / beside each example")]
        if bench.against:
            for padded in ("longest", str(PADDED_TO)):
                named.append(("once", padded, f"{task}: computed once / PEFT padded to {padded}"))
                named.append(("packed", padded, f"{task}: beside each / PEFT padded to {padded}"))
        rows += [
            compared(case, measured[one], measured[other], "examples/s")
            for one, other, case in named
        ]
    return rows


class _Product:
    """A product of two square matrices in XLA."""

    def __init__(self):
        self.x = jnp.ones((PEAK_SIDE, PEAK_SIDE), jnp.float32)
        self.product = jax.jit(jnp.matmul)

    def step(self) -> tuple[float, float]:
        began = time.perf_counter()
        jax.block_until_ready(self.product(self.x, self.x))
        return time.perf_counter() - began, 2.0 * PEAK_SIDE**3


class _Flops:
    """A side whose work is counted in FLOPs."""

    def __init__(self, side: Stepping, flops: float):
        self.side, self.flops = side, flops

    def step(self) -> tuple[float, float]:
        return self.side.step()[0], self.flops


def peak(bench: Bench) -> list[Row]:
    """The share of the speed of a product of matrices that a step reaches."""
    ours = Stepping(random_model(bench.config), bench.config, _padded(bench), FULL)
    measured = rates({"step": _Flops(ours, ours.flops), "product": _Product()}, bench.rounds)
    case = f"{bench.size}, {bench.batch} rows of 128 and 16 / product of {PEAK_SIDE}"
    giga = {name: [rate / 1e9 for rate in side] for name, side in measured.items()}
    return [compared(case, giga["step"], giga["product"], "GFLOP/s")]


class _Ranking:
    """Scores of some choices for every row."""

    def __init__(self, model: Any, bench: Bench, choices: int):
        rng, (B, T) = np.random.default_rng(0), (bench.batch, 128)
        graphdef, params = nnx.split(model)
        batch = {"encoder_input_tokens": rng.integers(3, 8000, (B, T)).astype(np.int32)}
        targets = rng.integers(3, 8000, (B, choices, 4)).astype(np.int32)

        def score(params, batch, targets):
            return decode.score(nnx.merge(graphdef, params), batch, decode.NO_PROMPT, targets)

        self.call, self.choices = jax.jit(score), B * choices
        self.arguments = jax.device_put((params, batch, targets))

    def step(self) -> tuple[float, float]:
        began = time.perf_counter()
        jax.block_until_ready(self.call(*self.arguments))
        return time.perf_counter() - began, self.choices


def rank(bench: Bench) -> list[Row]:
    """Four choices against one, of inputs of 128 tokens: the encoder runs once for all of them."""
    model = random_model(bench.config)
    sides = {str(n): _Ranking(model, bench, n) for n in (4, 1)}
    measured = rates(sides, bench.rounds)
    return [
        compared(f"{bench.size}, four choices / one", measured["4"], measured["1"], "choices/s")
    ]


def growth(bench: Bench) -> list[Row]:
    """The fitted exponent of a step's time as one thing grows and all else stays."""
    model, rows = random_model(bench.config), []
    base = Shape(4, 128, 16, packed=False, prompt=20)
    grown: dict[str, list[tuple[int, Shape]]] = {
        "rows": [(n, dataclasses.replace(base, rows=n)) for n in (4, 8, 16)],
        "columns": [(n, dataclasses.replace(base, columns=n)) for n in (128, 256, 512)],
        "prompt": [(n, dataclasses.replace(base, prompt=n)) for n in (50, 100, 200)],
        "prompt, computed once": [
            (n, dataclasses.replace(base, prompt=n, once=True)) for n in (50, 100, 200)
        ],
    }
    for name, cases in grown.items():
        sides = {
            str(n): Stepping(model, bench.config, shape, _filling(shape)) for n, shape in cases
        }
        measured = rates(sides, bench.rounds)
        seconds = [shape.rows / float(np.median(measured[str(n)])) for n, shape in cases]
        fitted = exponent([n for n, _ in cases], seconds)
        rows.append(Row(f"{bench.size}, {name}", None, None, fitted, None, "exponent"))
    return rows


def _filling(shape: Shape) -> Lengths:
    return Lengths((shape.columns,) * len(LEVELS), (shape.targets,))


CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "step": step,
    "tasks": tasks,
    "peak": peak,
    "rank": rank,
    "growth": growth,
}


def run(name: str, bench: Bench) -> Sequence[Row]:
    """The rows of a benchmark; UserError where there is none of that name."""
    _known("bench", name, CASES)
    return CASES[name](bench)
