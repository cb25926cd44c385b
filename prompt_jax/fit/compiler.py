"""A step compiled for chips that are not there, in a process of its own, and what it would take.

libtpu compiles for a described topology without any TPU. It reads its settings from the
environment once, writes to standard error as it likes and can crash the process, so that each
compilation has its own process. Where no compiler is at hand (GPUs) shapes and the jaxpr must do.
"""

import concurrent.futures
import functools
import importlib.metadata
import math
import multiprocessing
import os
import re
import sys
import tempfile
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from prompt_jax.errors import RunError, UserError
from prompt_jax.fit import estimates, hlo
from prompt_jax.fit.chips import Topology
from prompt_jax.fit.cost import Cost, cost
from prompt_jax.fit.program import Program, config_of, decode_program, train_program
from prompt_jax.run import flops
from prompt_jax.run.settings import Train

ENVIRONMENT = {  # for libtpu where there is no TPU
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a lock file keeps all processes but one out
    "TPU_SKIP_MDS_QUERY": "1",  # ask no metadata server
    # The compiler's threads overflow their 64 KiB stacks on the products of XXL.
    "LIBTPU_INIT_ARGS": "--fibers_default_thread_stack_size=2097152",
}
INSTALL = "pip install 'prompt-jax[fit]'"
_NEEDED = (  # how libtpu says that a step does not fit
    re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm"),
    re.compile(r"required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds"),
)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Analysis:
    """What one step takes; bytes are per chip.

    Attributes:
      memory: `arguments` (weights, prompt, optimizer, batch), of them `weights`; `outputs` that are
        no arguments; `temporaries`; `code`; `total` of these. `peak`: what lives at one time at
        most, by the compiler's count, or what it would need where it gave up.
      cost: FLOPs, HBM bytes and collectives of a chip.
      flops_jaxpr: FLOPs of all chips as the program says them, before the compiler.
      mesh: devices along each axis.
      seconds: of lowering and compiling; None: estimated from shapes.
      gave_up: the compiler found no way to fit the step, so that parts and costs are not known.
    """

    memory: dict[str, int]
    cost: Cost
    flops_jaxpr: float
    mesh: dict[str, int]
    seconds: float | None
    gave_up: bool = False


def analyse(run: Train, topology: Topology, decode: bool = False) -> Analysis:
    """Compiles the train step (or the decoding) of `run` for `topology`, or estimates it for GPUs.

    Raises:
      UserError: the recipe cannot run there, or libtpu is not installed.
      RunError: the compiler failed otherwise.
    """
    if not topology.chip.is_gpu:
        _check_installed()
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="prompt_jax_fit_") as folder,
        concurrent.futures.ProcessPoolExecutor(1, context, _prepare, (f"{folder}/log",)) as pool,
    ):
        try:
            return pool.submit(_analyse, run, topology, decode).result()
        except BrokenProcessPool:
            raise RunError(last_words(Path(folder, "log"))) from None


def _check_installed() -> None:
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("fit", "compiles by libtpu, which is not installed", INSTALL) from None


def last_words(log: Path) -> str:
    """One line on a compiler that died, with the signal that its log names."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    signals = [line.strip("* ") for line in lines if line.startswith("***")]
    words = signals[0].partition(" (see")[0] if signals else "killed, perhaps for lack of memory"
    return f"the TPU compiler ended without a result ({words}): try another mesh or remat policy"


def _prepare(log: str) -> None:
    """What a compiling process does first: no TPU, and standard error to a file."""
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    sys.stderr.flush()
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)


def _analyse(run: Train, topology: Topology, decode: bool) -> Analysis:
    build = decode_program if decode else train_program
    config = config_of(run)
    if topology.chip.is_gpu:
        jax.config.update("jax_num_cpu_devices", topology.size)  # stand for the GPUs
        program = build(run, config, jax.devices())
        return _estimated(run, config, program, decode)
    program = build(run, config, devices_of(topology))
    products = flops.of_jaxpr(program.jaxpr())
    mesh, began = dict(program.mesh.shape), time.perf_counter()
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise RunError(f"the TPU compiler: {error}") from None
        memory = {"weights": bytes_of(program.frozen), "total": needed, "peak": needed}
        return Analysis(memory, Cost(), products, mesh, time.perf_counter() - began, gave_up=True)
    seconds = time.perf_counter() - began
    counted = cost(hlo.parse(compiled.as_text()), topology.size)
    return Analysis(_memory(compiled, program), counted, products, mesh, seconds)


def needed_bytes(message: str) -> int | None:
    """What the compiler would have needed of a chip; None where that is not why it failed."""
    match = next((m for one in _NEEDED if (m := one.search(message))), None)
    return None if match is None else int(float(match[1]) * 1024 ** _UNITS[match[2]])


def devices_of(topology: Topology) -> Any:
    """The described devices of a slice; UserError where libtpu has no such slice."""
    from jax.experimental import topologies

    host = topology.chip.host if topology.size > 1 else (1, 1, 1)
    shape = "x".join(map(str, topology.shape))
    options: dict[str, Any] = dict(topology.chip.options or {})
    options["chips_per_host_bounds"] = (*host, 1)[:3]
    try:
        described = topologies.get_topology_desc(
            f"{topology.chip.name}:{shape}", platform="tpu", **options
        )
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"--topology={topology.name}", f"libtpu has no such slice ({error})"
        ) from None
    return described.devices


def _memory(compiled: Any, program: Program) -> dict[str, int]:
    stats = compiled.memory_analysis()
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    weights, total = bytes_of(program.frozen), sum(parts.values())
    return {"weights": weights, **parts, "total": total, "peak": stats.peak_memory_in_bytes}


def bytes_of(shapes: Any) -> int:
    """Bytes of arrays on one chip, before padding."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(shapes)
    )


def _estimated(run: Train, config: Any, program: Program, decode: bool) -> Analysis:
    products = flops.of_jaxpr(program.jaxpr())
    parts = {
        "arguments": bytes_of(program.arrays),
        "temporaries": estimates.temporaries(run, config, program.mesh, decode),
    }
    weights = bytes_of(program.frozen)
    total = sum(parts.values())
    memory = {"weights": weights, **parts, "total": total, "peak": total}
    counted = estimates.traffic(run, config, program.mesh, memory, decode)
    counted.flops = products / program.mesh.size
    return Analysis(memory, counted, products, dict(program.mesh.shape), None)


versions = functools.cache(lambda: {n: importlib.metadata.version(n) for n in ("jax", "libtpu")})
