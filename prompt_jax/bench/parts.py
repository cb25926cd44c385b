"""The parts of a run's memory: `python -m prompt_jax.bench.parts FOLDER BINDING...`.

Builds the recipe `FOLDER/run.gin` as `train` does, and prints JSON: GiB of the process after each
part, and what XLA says of the compiled step.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

GIB = 2**30


def resident() -> float:
    """GiB of this process that are in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / GIB


def main() -> None:
    folder, *bindings = sys.argv[1:]
    after = {"Python": resident()}
    import jax
    from etils import epath

    from prompt_jax.recipe import config
    from prompt_jax.run.job import Run, Setup
    from prompt_jax.run.settings import Train
    from prompt_jax.run.speed import memory

    jax.devices()
    after["imports"] = resident()
    recipe: Any = config.load("Train", [f"{folder}/run.gin"], bindings)
    settings: Train = recipe.root
    setup = Setup(settings)
    setup.read(settings.data, settings.data.read)
    after["the task's text"] = resident()
    setup.backbone(settings.backbone)
    after["weights"] = resident()
    run = Run(settings, epath.Path(folder) / "parts", setup=setup)
    state, (batch, _) = run.first_state(), run.batch(0)
    after["the run"] = resident()
    step = run.train_step.lower(state, run.frozen, batch).compile()
    after["compiling"] = resident()
    for n in range(3):
        state, _ = jax.block_until_ready(step(state, run.frozen, run.batch(n)[0]))
    after["steps"] = resident()
    peak = memory()["host_peak_bytes"] / GIB
    remat = dataclasses.replace(settings.backbone, remat="full")
    other = Run(dataclasses.replace(settings, backbone=remat), run.folder)
    least = other.train_step.lower(other.first_state(), other.frozen, batch).compile()
    facts: list[Any] = [one.memory_analysis() for one in (step, least)]
    temporary, recomputed = (fact.temp_size_in_bytes / GIB for fact in facts)
    weights = facts[0].argument_size_in_bytes / GIB
    compiled = {"arguments": weights, "temporary": temporary, "residuals": temporary - recomputed}
    print(json.dumps({"after": after, "peak": peak, "compiled": compiled}))


if __name__ == "__main__":
    main()
