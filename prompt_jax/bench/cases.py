"""The benchmarks by name: each gives the rows of its report.

All run on random weights and random tokens or words, so that they need no file.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.bench import answers, commands, peft
from prompt_jax.bench.lengths import LEVELS, Lengths, examples_of
from prompt_jax.bench.measure import Row, compared, exponent, rates
from prompt_jax.bench.settings import Bench, known
from prompt_jax.bench.steps import FarmStepping, Shape, Stepping, random_model, shapes_of
from prompt_jax.errors import RunError, UserError
from prompt_jax.model import decode

PADDED_TO = 512
FULL = Lengths((128,) * len(LEVELS), (16,))  # no padding anywhere
PEAK_SIDE = 1024  # of the square matrices whose product is the peak
PRODUCTS = 100


def step(bench: Bench) -> list[Row]:
    """A step of `batch` rows of 128 and 16 tokens, without padding."""
    ours = Stepping(random_model(bench.config), bench.config, _padded(bench), FULL)
    sides: dict[str, Any] = {"ours": ours}
    if bench.against == "peft":
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
        lengths = examples_of(task)
        shapes = shapes_of(lengths, bench.columns, bench.prompt)
        sides: dict[str, Any] = {
            name: Stepping(model, bench.config, shape, lengths) for name, shape in shapes.items()
        }
        if bench.against == "peft":
            args = (bench.config, lengths, bench.batch, bench.prompt)
            sides["longest"] = peft.PeftStepping(*args, None)
            sides[str(PADDED_TO)] = peft.PeftStepping(*args, PADDED_TO)
        measured = rates(sides, bench.rounds)
        named = [("once", "packed", f"{task}: computed once / beside each example")]
        if bench.against == "peft":
            for padded in ("longest", str(PADDED_TO)):
                named.append(("once", padded, f"{task}: computed once / PEFT padded to {padded}"))
                named.append(("packed", padded, f"{task}: beside each / PEFT padded to {padded}"))
        rows += [
            compared(case, measured[one], measured[other], "examples/s")
            for one, other, case in named
        ]
    return rows


class _Product:
    """Products of two square matrices in XLA, as many in a row as take about a step's time: one
    alone is over before a core is at its full speed."""

    def __init__(self):
        self.x = jnp.ones((PEAK_SIDE, PEAK_SIDE), jnp.float32)
        self.product = jax.jit(jnp.matmul)

    def step(self) -> tuple[float, float]:
        began = time.perf_counter()
        for _ in range(PRODUCTS):
            jax.block_until_ready(self.product(self.x, self.x))
        return time.perf_counter() - began, 2.0 * PRODUCTS * PEAK_SIDE**3


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
    model, config = random_model(bench.config), bench.config
    base = Shape(4, 128, 16, packed=False, prompt=20)

    def shaped(**changes: Any) -> Callable[[], Stepping]:
        shape = dataclasses.replace(base, **changes)
        filling = Lengths((shape.columns,) * len(LEVELS), (shape.targets,))
        return lambda: Stepping(model, config, shape, filling)

    def sized(**changes: int) -> Callable[[], Stepping]:
        other = dataclasses.replace(config, **changes)
        filling = Lengths((base.columns,) * len(LEVELS), (base.targets,))
        return lambda: Stepping(random_model(other), other, base, filling)

    grown: dict[str, dict[int, Callable[[], Any]]] = {
        "rows": {n: shaped(rows=n) for n in (4, 8, 16)},
        "columns": {n: shaped(columns=n) for n in (128, 256, 512)},
        "prompt": {n: shaped(prompt=n) for n in (50, 100, 200)},
        "prompt, computed once": {n: shaped(prompt=n, once=True) for n in (50, 100, 200)},
        "layers": {n: sized(num_encoder_layers=n, num_decoder_layers=n) for n in (2, 4, 8)},
        "vocabulary": {n: sized(vocab_size=n) for n in (16384, 65536, 262144)},
        "members": {n: lambda n=n: FarmStepping(config, base, n) for n in (1, 2, 4)},
    }
    return [_exponent(bench, name, cases) for name, cases in grown.items()]


def _exponent(bench: Bench, name: str, cases: dict[int, Callable[[], Any]]) -> Row:
    measured = rates({str(n): make() for n, make in cases.items()}, bench.rounds)
    seconds = [1 / float(np.median(measured[str(n)])) for n in cases]
    work = [n if name in ("rows", "members") else 1 for n in cases]  # examples of a step
    fitted = exponent(list(cases), [x * n for x, n in zip(seconds, work, strict=True)])
    return Row(f"{bench.size}, {name}", None, None, fitted, None, "exponent")


def decoding(bench: Bench) -> list[Row]:
    """Greedy decoding of 32 tokens from inputs of up to 64, over a cache.

    Beside transformers, whose weights and ids are the same; UserError where what it writes is not.
    """
    ids = answers.questions(2 * bench.batch)
    with answers.hf_folder(bench.config) as folder:
        ours = answers.Decoding(folder, ids)
        sides: dict[str, Any] = {"ours": ours}
        if bench.against:
            sides["theirs"] = answers.TransformersDecoding(folder, ids)
        measured = rates(sides, bench.rounds)
    if bench.against and not np.array_equal(ours.said, sides["theirs"].said):
        raise RunError("decode: transformers writes other ids")
    case = f"{bench.size}, {len(ids)} rows"
    return [compared(case, measured["ours"], measured.get("theirs"), "tokens/s")]


def reading(bench: Bench) -> list[Row]:
    """Reading of weights from a folder of transformers that the system has read before."""
    with answers.hf_folder(bench.config) as folder:
        sides: dict[str, Any] = {"ours": answers.Reading(folder)}
        if bench.against:
            sides["theirs"] = answers.TransformersReading(folder)
        measured = rates(sides, bench.rounds)
    return [compared(bench.size, measured["ours"], measured.get("theirs"), "MB/s")]


def _work(bench: Bench, **changes: int) -> commands.Work:
    return commands.Work(bench.config, bench.batch, bench.prompt, **changes)


def startup(bench: Bench) -> list[Row]:
    """From the command to the first step, with nothing compiled before and with all of it."""
    work = _work(bench, steps=1)
    seconds: dict[str, list[float]] = {"cold": [], "warm": [], "peft": []}
    bindings = (*commands.WITHOUT_EVALUATION, "Train.log_period=1")
    with commands.recipe(work) as folder:
        for n in range(bench.rounds):
            for name in ("cold", "warm"):
                place = folder / f"{name}_{n}"
                done = commands.train(folder, place, bindings, cache=folder / f"cache_{n}")
                seconds[name].append(done.first)
            if bench.against:
                seconds["peft"].append(commands.peft(work).first)
    case = f"{bench.size}, to the first step"
    rows = [_faster(f"{case}, warm / cold", seconds["warm"], seconds["cold"])]
    if bench.against:
        rows.append(_faster(f"{case}, warm / PEFT", seconds["warm"], seconds["peft"]))
    return rows


def _faster(case: str, ours: Sequence[float], theirs: Sequence[float], unit: str = "s") -> Row:
    """A row of two sides of which the one with less is the better."""
    row = compared(case, [1 / x for x in ours], [1 / x for x in theirs], unit)
    return row._replace(ours=float(np.median(ours)), theirs=float(np.median(theirs)))


def memory(bench: Bench) -> list[Row]:
    """The most memory of a whole command of three steps, and the share of each part."""
    work = _work(bench)
    ours, theirs = [], []
    with commands.recipe(work) as folder:
        for n in range(bench.rounds):
            place = folder / f"run_{n}"
            done = commands.train(folder, place, commands.WITHOUT_EVALUATION, folder / "cache")
            ours.append(done.peak)
            if bench.against:
                theirs.append(commands.peft(work).peak)
        found = commands.parts(folder, *commands.WITHOUT_EVALUATION)
    case = f"{bench.size}, peak of a command"
    if bench.against:
        rows = [_faster(case, ours, theirs, "GiB")]
    else:
        rows = [Row(case, None, None, float(np.median(ours)), None, "GiB")]
    before = 0.0
    for part, after in found["after"].items():
        rows.append(Row(f"{bench.size}, {part}", None, None, after - before, None, "GiB"))
        before = after
    for part, size in found["compiled"].items():
        rows.append(Row(f"{bench.size}, XLA's {part}", None, None, size, None, "GiB"))
    return rows


def farm(bench: Bench) -> list[Row]:
    """A farm of seeds as one command against its members' own, one after another: whole commands,
    the steady step, and the most memory against one run with as many rows a step."""
    work = _work(bench, steps=bench.steps, labels=4, columns=64, targets=4)
    names = ("farm", "alone", "farm step", "alone step", "farm peak", "wide peak")
    found: dict[str, list[float]] = {name: [] for name in names}
    seeds = list(range(bench.members))
    grid = (f"FARM={{'SEED': {seeds}}}", f"Farm.at_once={bench.members}")
    wide = (f"BATCH_SIZE={bench.batch * bench.members}", "TRAIN_STEPS=20")
    with commands.recipe(work) as folder:
        cache = folder / "cache"
        for n in range(bench.rounds):
            place = folder / f"round_{n}"
            together = commands.train(folder, place / "farm", grid, cache)
            alone = [
                commands.train(folder, place / f"seed_{seed}", (f"SEED={seed}",), cache)
                for seed in seeds
            ]
            wider = commands.train(folder, place / "wide", wide, cache)
            found["farm"].append(together.seconds)
            found["alone"].append(sum(one.seconds for one in alone))
            found["farm step"].append(commands.steady(place / "farm" / "members" / "SEED_0"))
            steps = [commands.steady(place / f"seed_{seed}") for seed in seeds]
            found["alone step"].append(sum(steps))
            found["farm peak"].append(together.peak)
            found["wide peak"].append(wider.peak)
    case = f"{bench.size}, farm of {bench.members}"
    return [
        _faster(f"{case} / one by one, {bench.steps} steps", found["farm"], found["alone"]),
        _faster(f"{case} / one by one, steady step", found["farm step"], found["alone step"]),
        _faster(f"{case} / one run of as many rows", found["farm peak"], found["wide peak"], "GiB"),
    ]


CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "step": step,
    "tasks": tasks,
    "peak": peak,
    "farm": farm,
    "decode": decoding,
    "rank": rank,
    "startup": startup,
    "memory": memory,
    "growth": growth,
    "reading": reading,
}
AGAINST = {  # what each is measured beside
    **dict.fromkeys(("step", "tasks", "startup", "memory"), ("peft",)),
    **dict.fromkeys(("decode", "reading"), ("transformers",)),
}


def run(name: str, bench: Bench) -> Sequence[Row]:
    """The rows of a benchmark; UserError where there is none of that name."""
    known("bench", name, CASES)
    if bench.against not in (None, *AGAINST.get(name, ())):
        names = AGAINST.get(name, ())
        remedy = f"give --against={names[0]}" if names else "leave it out"
        raise UserError(f"--against={bench.against}", f"{name} is not measured beside it", remedy)
    if bench.against is not None:
        peft.check(bench.against)
    return CASES[name](bench)
