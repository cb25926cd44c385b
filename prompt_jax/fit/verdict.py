"""The page of `fit`: what a step takes of each chip, how long it takes at least, and what it costs.

The roofline is the largest of three times, each with its resource at the vendor's peak: matrix
products, HBM traffic, bytes sent to other chips. Nothing is faster; much is slower.
"""

from typing import Any

from prompt_jax.fit.chips import Topology
from prompt_jax.fit.compiler import Analysis
from prompt_jax.fit.program import answered
from prompt_jax.model.chips import GIB
from prompt_jax.model.t5 import T5Config
from prompt_jax.run import flops
from prompt_jax.run.settings import Train

RESERVED = 0.015  # share of HBM that the runtime keeps: libtpu offers 15.75 of a v5e's 16 GiB
UNKNOWN = [
    "how much of the peaks the kernels reach: the step takes at least this long",
    "fragmentation of memory, and what else holds some of it",
    "whether the hosts keep the chips fed with rows",
    "evaluation, checkpoints, compilation and waiting for other hosts",
]
IN_KERNELS = "what attention's kernels compute: the compiler does not count their FLOPs"
NOT_COMPILED = "no compiler was at hand: memory and traffic are estimates from shapes"


def verdict(
    run: Train,
    config: T5Config,
    topology: Topology,
    analysis: Analysis,
    decode: bool = False,
    price: float | None = None,
) -> dict[str, Any]:
    """All that is known of a step, as `--json` prints it; bytes and seconds are plain numbers."""
    chip, rows = topology.chip, _rows(run, decode)
    limit = int(chip.hbm * (1 - RESERVED))
    times = {
        "compute": analysis.cost.flops / chip.flops,
        "hbm": analysis.cost.hbm / chip.bandwidth,
        "interconnect": analysis.cost.sent / chip.ici,
    }
    bottleneck = max(times, key=times.__getitem__)
    facts: dict[str, Any] = {
        "step": "decode" if decode else "train",
        "backbone": run.backbone.name,
        "weights_dtype": run.backbone.weights_dtype or run.backbone.dtype,
        "remat": config.remat,
        "topology": topology.name,
        "chips": topology.size,
        "mesh": analysis.mesh,
        "batch": rows,
        "compiled": analysis.seconds is not None,
        "seconds_to_compile": analysis.seconds,
        "fits": analysis.memory["peak"] <= limit and not analysis.gave_up,
        "tight": analysis.memory["total"] > limit,
        "memory": {**analysis.memory, "limit": limit},
        "unknown": UNKNOWN
        + ([] if config.attention == "xla" else [IN_KERNELS])
        + ([] if analysis.seconds is not None else [NOT_COMPILED]),
        "source": chip.source,
    }
    if analysis.gave_up:
        return facts
    facts["flops"] = {
        "chip": analysis.cost.flops,
        "step": analysis.cost.flops * topology.size,
        "program": analysis.flops_jaxpr,
    }
    if not decode:
        facts["flops"] |= _ratios(run, config, facts["flops"]["step"])
    facts["hbm_bytes"] = analysis.cost.hbm
    facts["collectives"] = {
        kind: {"count": count, "bytes_sent": sent}
        for kind, (count, sent) in analysis.cost.collectives.items()
    }
    facts["roofline"] = {**times, "step": times[bottleneck], "bottleneck": bottleneck}
    if price is not None:
        hours = times[bottleneck] / 3600 * topology.size
        facts["dollars_per_1000_rows"] = hours * price * 1000 / rows
    return facts


def _rows(run: Train, decode: bool) -> int:
    return answered(run)[0] if decode else run.data.batch_size


def _ratios(run: Train, config: T5Config, done: float) -> dict[str, float]:
    least, again = flops.least(run, config)
    return {
        "least": least,
        "remat": again,
        "ratio": done / least,
        "ratio_with_remat": done / (least + again),
    }


def table(facts: dict[str, Any]) -> dict[str, Any]:
    """The verdict for people: {what: how much}; `sentence` sums it up."""
    memory = facts["memory"]
    lines: dict[str, Any] = {
        "step": f"{facts['step']}, {facts['batch']} rows, {facts['backbone']} in "
        f"{facts['weights_dtype']}, remat {facts['remat']}",
        "mesh": " x ".join(f"{axis} {size}" for axis, size in facts["mesh"].items()),
    }
    for part in ("arguments", "outputs", "temporaries", "code"):
        if part in memory:
            shown = gib(memory[part])
            lines[part] = (
                f"{shown}, of it weights {gib(memory['weights'])}" * (part == "arguments") or shown
            )
    if facts["compiled"]:
        lines["all of these"] = gib(memory["total"])
    lines["peak per chip"] = f"{gib(memory['peak'])} of {gib(memory['limit'])}"
    if "flops" in facts:
        lines |= _costs(facts)
    if facts["compiled"]:
        lines["compiled"] = f"in {facts['seconds_to_compile']:.0f} s"
    lines["not known"] = "; ".join(facts["unknown"])
    return lines


def _costs(facts: dict[str, Any]) -> dict[str, str]:
    done, roofline = facts["flops"], facts["roofline"]
    lines = {"FLOPs per step": f"{done['step']:.4g} ({done['chip']:.4g} a chip)"}
    if "ratio" in done:
        lines["FLOPs / least"] = (
            f"{done['ratio']:.3f}; {done['ratio_with_remat']:.3f} of what remat {facts['remat']!r} "
            "needs"
        )
    if not 0.9 < done["step"] / done["program"] < 1.1 and facts["step"] == "train":
        lines["FLOPs, program"] = f"{done['program']:.4g}: the compiler does more or less than that"
    lines["HBM traffic"] = f"{gib(facts['hbm_bytes'])} a chip"
    for kind, moved in facts["collectives"].items():
        lines[kind] = f"{moved['count']:.0f}, {gib(moved['bytes_sent'])} sent by a chip"
    lines["time at least"] = (
        f"{1e3 * roofline['step']:.2f} ms: {roofline['bottleneck']} (compute "
        f"{1e3 * roofline['compute']:.2f}, HBM {1e3 * roofline['hbm']:.2f}, interconnect "
        f"{1e3 * roofline['interconnect']:.2f})"
    )
    if "dollars_per_1000_rows" in facts:
        lines["dollars, 1000 rows"] = f"at least {facts['dollars_per_1000_rows']:.4f}"
    return lines


def sentence(facts: dict[str, Any]) -> str:
    memory, manner = facts["memory"], "compiled" if facts["compiled"] else "estimated, not compiled"
    word = "fits" if facts["fits"] else "does not fit"
    if facts["fits"] and facts["tight"]:
        word = "fits tightly (nothing of it may lie apart)"
    return (
        f"{word}: {gib(memory['peak'])} of {gib(memory['limit'])} per chip on {facts['topology']} "
        f"({manner})"
    )


def gib(size: float) -> str:
    if size >= GIB / 100:
        return f"{size / GIB:.2f} GiB"
    return f"{size / (1 << 20):.2f} MiB"
