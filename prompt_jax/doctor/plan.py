"""What a command would do, for `--dry_run`: shapes, memory, steps, and the files it would write.

No weight and no training text is read; of a checkpoint only its config and the names of its arrays.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from flax import nnx

from prompt_jax.backbone.load import open_checkpoint
from prompt_jax.data.split import Sampling, Split
from prompt_jax.doctor.examine import check_memory
from prompt_jax.doctor.facts import Facts
from prompt_jax.errors import UserError
from prompt_jax.evaluate.opening import opening
from prompt_jax.methods.base import PromptParam
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.library import Library
from prompt_jax.run.settings import Train
from prompt_jax.run.stages import Stages, resolved, stage_folder

Plan = dict[str, Any]


def plan(root: Train | Stages, model_dir: str, seeds: Sequence[int] | None = None) -> list[Plan]:
    """What `train` would do: a plan of every run, in their order.

    Raises:
      UserError: what the runs would refuse before they read weights or text.
    """
    folder = epath.Path(model_dir)
    if isinstance(root, Stages):
        runs = enumerate(resolved(root, folder), start=1)
        return [plan_of_run(run, str(stage_folder(folder, number))) for number, run in runs]
    if seeds is not None:
        return [plan_of_run(root, f"{model_dir}/seed_{seed}") | {"seed": seed} for seed in seeds]
    return [plan_of_run(root, model_dir)]


def plan_of_run(run: Train, model_dir: str) -> Plan:
    """One run: what trains and of what shape, a step's batch, memory, steps and files."""
    facts = Facts(run, model_dir)
    facts.checking = "backbone"
    config, stored = facts.checkpoint.config, facts.checkpoint.arrays.stored
    trained = _trained(run, config)
    facts.checking = "mesh"
    mesh = facts.mesh
    facts.checking = "memory"
    begun = sorted(epath.Path(model_dir).glob("checkpoints/[0-9]*"))
    return {
        "model_dir": model_dir,
        "backbone": run.backbone.name,
        "backbone_parameters": sum(math.prod(x.shape) for x in stored.values()),
        "method": type(run.method).__name__,
        "trained": trained,
        "trained_parameters": run.method.count(config),
        "batch": _batch(run),
        "mesh": {axis: int(size) for axis, size in mesh.shape.items()},
        "memory": check_memory(facts).value,
        "steps": run.steps,
        "begins": "from the last checkpoint there" if begun else "at step 0",
        "evaluations": _times(run.steps, run.evaluation.period) + 1 if run.evaluation else 0,
        "checkpoints": _times(run.steps, run.checkpoints.period),
        "files": _files(run),
    }


def _trained(run: Train, config: T5Config) -> dict[str, list[int]] | str:
    if run.method.trains_model:
        return "the whole model"
    try:
        module = run.method.shapes(config)
    except UserError as error:  # a saved prompt that an earlier stage is to leave
        return f"known once it begins ({error.fault})"
    leaves = jax.tree_util.tree_leaves_with_path(nnx.state(module, PromptParam))
    named = ((jax.tree_util.keystr(p, simple=True, separator="."), x) for p, x in leaves)
    return {name.removesuffix(".value"): list(x.shape) for name, x in named}


def _batch(run: Train) -> dict[str, list[int]]:
    features = run.data.features(run.method.layout)
    return {name: list(array.shape) for name, array in features.items()}


def _times(steps: int, period: int) -> int:
    """How often something happens that is done every `period` steps and after the last."""
    return -(-steps // period)


def _files(run: Train) -> list[str]:
    files = ["config.gin", "identity.json", "metrics.jsonl", "tensorboard/"]
    files += ["checkpoints/STEP/", "prompt/last/"]
    files += ["prompt/best/"] if run.selection else []
    return files + (["predictions/"] if run.evaluation else [])


def plan_of_eval(
    backbone: str,
    prompts: Sequence[str],
    task: str,
    split: str,
    batch_size: int,
    max_examples: int | None,
    lengths: tuple[int | None, int | None],
    files: Sequence[str],
) -> Plan:
    """What `eval` would do. The split is read and counted; no weight is."""
    asked = opening(backbone, prompts, input_length=lengths[0], target_length=lengths[1])
    config = open_checkpoint(backbone).config
    text = Split(task, split, asked.limits, Sampling(max_examples=max_examples)).read()
    rows = {name: len(examples) for name, examples in text.examples.items()}
    return {
        "backbone": backbone,
        "width": config.emb_dim,
        "prompts": {prompt.path: prompt.manifest.get("method", ".npy") for prompt in asked.prompts},
        "task": task,
        "split": split,
        "examples": rows,
        "batches": len(prompts or [""]) * -(-sum(rows.values()) // batch_size),
        "lengths": list(asked.limits),
        "files": list(files),
    }


def plan_of_transfer(
    run: Train, model_dir: str, library: Library, strategies: Sequence[str], k: int
) -> list[Plan]:
    """What `spot transfer` would train: the control, and a run for every start."""
    sources = [entry.name for entry in library.entries() if entry.facts["task"] != run.data.task]
    nearest = min(k, len(sources))
    counts = {"best": nearest, "average": 1, "mixture": 2}
    control = plan_of_run(run, f"{model_dir}/control")
    runs = {"control": 1} | {name: counts[name] for name in strategies}
    total = {
        "runs": runs,
        "sources": sources,
        "steps_in_all": run.steps * sum(runs.values()),
        "files": ["transfer.json", *(f"{name}*/" for name in runs)],
    }
    return [control, {"model_dir": model_dir, **total}]
