"""Looking for the largest batch that fits and for the best mesh, with few compilations.

Meshes are ranked by estimates from shapes; only the best of that ranking are compiled. Memory grows
almost in proportion to the batch, so that a line through two compilations tells where to look next.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jax.sharding import AbstractMesh

from prompt_jax.errors import RunError, UserError
from prompt_jax.fit import estimate, estimates
from prompt_jax.fit.chips import Topology
from prompt_jax.fit.compiler import Analysis, analyse
from prompt_jax.fit.program import answered, config_of
from prompt_jax.fit.verdict import sentence, verdict
from prompt_jax.model import sharding
from prompt_jax.model.t5 import T5Config
from prompt_jax.run import flops
from prompt_jax.run.settings import Train

COMPILED_MESHES = 3  # of the ranking by estimates
MOST_COMPILATIONS = 12  # in looking for a batch


@dataclass
class Search:
    """A recipe, perhaps with another mesh and batch, and what its step takes.

    `tried`: a row for every compilation of a search.
    """

    run: Train
    config: T5Config
    topology: Topology
    decode: bool
    tried: list[dict[str, Any]] = field(default_factory=list)
    analysis: Any = None  # Analysis

    def analyse(self, run: Train) -> tuple[Analysis, dict[str, Any]]:
        analysis = analyse(run, self.topology, self.decode)
        facts = verdict(run, self.config, self.topology, analysis, self.decode)
        roofline = facts.get("roofline", {"step": None})
        self.tried.append(
            {
                "mesh": " x ".join(f"{axis} {size}" for axis, size in analysis.mesh.items()),
                "batch": facts["batch"],
                "verdict": sentence(facts),
                "seconds at least": roofline["step"],
            }
        )
        return analysis, facts


def search(run: Train, topology: Topology, decode: bool, batch: bool, mesh: bool) -> Search:
    """What the step of `run` takes; with `mesh` and `batch`, of the best mesh and largest batch.

    Raises:
      UserError, RunError: as `compiler.analyse`, and where no batch or no mesh works at all.
    """
    result = Search(run, config_of(run), topology, decode)
    if mesh:
        _best_mesh(result)
    if batch:
        _largest_batch(result)
    if result.analysis is None:
        result.analysis = analyse(run, topology, decode)
    return result


def _best_mesh(result: Search) -> None:
    ranked = sorted(_estimates(result), key=lambda pair: pair[0])
    if not ranked:
        raise UserError(
            "--mesh=auto",
            (
                f"no mesh of {result.topology.size} chips divides the batch of "
                f"{result.run.data.batch_size} and the weights"
            ),
            "change BATCH_SIZE",
        )
    best = None
    for _, shape in ranked[:COMPILED_MESHES]:
        run = dataclasses.replace(result.run, mesh=shape)
        analysis, facts = result.analyse(run)
        seconds = facts["roofline"]["step"] if facts["fits"] else float("inf")
        key = (not facts["fits"], seconds, facts["memory"]["peak"])
        if best is None or key < best[0]:
            best = (key, run, analysis)
    assert best is not None
    _, result.run, result.analysis = best


def _estimates(result: Search) -> Iterator[tuple[tuple[bool, float], sharding.MeshShape]]:
    """((does not fit, seconds) by estimate, mesh) of every mesh that divides all there is."""
    size = result.topology.size
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    for fsdp, model in itertools.product(divisors, divisors):
        if size % (fsdp * model) == 0:
            shape = sharding.MeshShape(data=size // (fsdp * model), fsdp=fsdp, model=model)
            with contextlib.suppress(UserError):  # what the mesh does not divide
                yield _estimate(result, shape), shape


def _estimate(result: Search, shape: sharding.MeshShape) -> tuple[bool, float]:
    run, config, chip = result.run, result.config, result.topology.chip
    mesh: Any = AbstractMesh((shape.data, shape.fsdp, shape.model), sharding.AXES)
    if not result.decode:
        sharding.check_rows(mesh, run.data.batch_size, run.accumulate)
    weights = estimate.weight_bytes(config, mesh, config.dtype, run.backbone.weights_dtype)
    saved = estimates.temporaries(run, config, mesh, result.decode)
    memory = {"weights": weights, "temporaries": saved}
    cost = estimates.traffic(run, config, mesh, memory, result.decode)
    compute = flops.least(run, config)[0] / result.topology.size / chip.flops
    seconds = max(compute, cost.hbm / chip.bandwidth, cost.sent / chip.ici)
    return weights + saved > chip.hbm, seconds


def with_rows(run: Train, rows: int, decode: bool) -> Train:
    """The recipe with another batch."""
    if decode:
        assert run.evaluation is not None
        evaluation = dataclasses.replace(run.evaluation, batch_size=rows)
        return dataclasses.replace(run, evaluation=evaluation)
    return dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=rows))


def _largest_batch(result: Search) -> None:
    run, decode = result.run, result.decode
    shape = dataclasses.asdict(run.mesh)
    known = [size for size in (shape["data"], shape["fsdp"], shape["model"]) if size != -1]
    rest = result.topology.size
    for size in known:
        rest //= size
    sides = [rest if shape[axis] == -1 else shape[axis] for axis in ("data", "fsdp")]
    unit = max(1, sides[0] * sides[1]) * (1 if decode else run.accumulate)
    rows = answered(run)[0] if decode else run.data.batch_size
    tries: dict[int, tuple[Analysis, dict[str, Any]]] = {}

    def fits(units: int) -> bool:
        tries[units] = result.analyse(with_rows(run, units * unit, decode))
        return tries[units][1]["fits"]

    best = largest(fits, lambda u: tries[u][1]["memory"], max(1, rows // unit))
    if best == 0:
        raise RunError(f"not even {unit} rows fit on {result.topology.name}: {result.tried[-1]}")
    result.run, result.analysis = with_rows(run, best * unit, decode), tries[best][0]


def largest(fits: Any, memory: Any, start: int) -> int:
    """The largest n >= 1 for which `fits(n)`, 0 if there is none; it begins at `start`.

    `memory(n)` gives `total` and `limit` of an n that was tried. A bracket is closed by the line
    through its ends, and by halving where that line makes no progress.
    """
    good, bad, n = 0, None, start
    for _ in range(MOST_COMPILATIONS):
        if fits(n):
            good = n
        else:
            bad = n
        if bad == good + 1:
            break
        n = _next(good, bad, memory)
    return good


def _next(good: int, bad: int | None, memory: Any) -> int:
    """Where to look between what fits and what does not."""
    if bad is None:  # what one unit takes is at most all of what was taken, divided
        needed = memory(good)
        fixed = needed["weights"]
        per_unit = max(1, (needed["peak"] - fixed) // good)
        return max(good + 1, min(8 * good, (needed["limit"] - fixed) // per_unit))
    if good == 0:
        return bad // 2
    low, high = memory(good), memory(bad)
    slope = (high["peak"] - low["peak"]) / (bad - good)
    guess = good + int((low["limit"] - low["peak"]) / slope) if slope > 0 else (good + bad) // 2
    return min(max(guess, good + 1), bad - 1)
