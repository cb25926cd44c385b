"""What a command would do, for `--dry_run`: shapes, memory, steps, and the files it would write.

No weight and no training text is read; of a checkpoint only its config and the names of its arrays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from prompt_jax.export.formats import get_format
from prompt_jax.export.publish import record_of
from prompt_jax.methods.base import PromptParam
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.library import Library
from prompt_jax.run.farm import FILE as FARM_FILE
from prompt_jax.run.farm import check, unfit
from prompt_jax.run.grid import Member
from prompt_jax.run.identity import FILE as IDENTITY_FILE
from prompt_jax.run.settings import Farm, Train
from prompt_jax.run.stages import Done, Stages, check_shapes, resolved, stage_folder
from prompt_jax.run.train import PROFILED_FROM
from prompt_jax.transfer.targets import REPORT

Plan = dict[str, Any]


@dataclass(frozen=True)
class Also:
    """What a command adds to the files of each run.

    Attributes:
      observers: the files of those who follow the run.
      profile, batch_digests: the flags of `train`.
    """

    observers: tuple[str, ...] = ()
    profile: bool = False
    batch_digests: bool = False


NOTHING = Also()


def plan(root: Train | Stages, model_dir: str, also: Also = NOTHING) -> list[Plan]:
    """What `train` would do: a plan of every run, in their order.

    Raises:
      UserError: what the runs would refuse before they read weights or text.
    """
    if not isinstance(root, Stages):
        return [plan_of_run(root, model_dir, also)]
    check_shapes(root)
    plans, folder = [], epath.Path(model_dir)
    pairs = zip(root.stages, resolved(root, folder), strict=True)
    for number, (stage, run) in enumerate(pairs, start=1):
        done = Done(run, stage_folder(folder, number))
        plan = plan_of_run(run, str(done.folder), also)
        made = [epath.Path(file) for operation in stage.on_end for file in operation.files(done)]
        names = [f"{path.relative_to(done.folder)}/" for path in made]
        plans.append(plan | {"files": list(dict.fromkeys([*plan["files"], *names]))})
    return plans


def plan_of_members(
    members: Sequence[Member], model_dir: str, options: Farm, also: Also = NOTHING
) -> list[Plan]:
    """What a farm, or several seeds, would do: a plan of the whole, then one of each member.

    Raises:
      UserError: what the runs would refuse before they read weights or text.
    """
    seeds = all(member.folder.startswith("seed_") for member in members)
    together = unfit(members[0].settings) is None
    if together or not seeds:
        check(members, options)
    at_once = min(options.at_once, len(members)) if together else 1
    also = replace(also, profile=also.profile and not together)  # a farm is not traced
    plans = [
        plan_of_run(member.settings, f"{model_dir}/{member.folder}", also, at_once)
        | {"member": member.name}
        for member in members
    ]
    whole = {
        "model_dir": model_dir,
        "members": len(members),
        "at_once": at_once,
        "steps_in_all": sum(member.settings.steps for member in members),
        "files": [".lock", FARM_FILE] * together + ["seeds.json"] * seeds,
    }
    return [whole, *plans]


def plan_of_run(run: Train, model_dir: str, also: Also = NOTHING, together: int = 1) -> Plan:
    """One run: what trains and of what shape, a step's batch, memory, steps and files.

    `together`: how many of its kind train in one step.
    """
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
        "memory": check_memory(facts, together).value,
        "steps": run.steps,
        "begins": "from the last checkpoint there" if begun else "at step 0",
        "evaluations": _times(run.steps, run.evaluation.period) + 1 if run.evaluation else 0,
        "checkpoints": _times(run.steps, run.checkpoints.period),
        "files": _files(run, also),
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


def _files(run: Train, also: Also) -> list[str]:
    """All that a run leaves in its folder; STEP stands for the number of a step."""
    files = [".lock", "config.gin", IDENTITY_FILE, "metrics.jsonl"]
    files += ["checkpoints/STEP/", "prompt/last/"]
    files += ["prompt/best/"] if run.selection else []
    files += ["predictions/step_STEP.jsonl"] if run.evaluation else []
    for name in run.targets:
        suffix = get_format(name).suffix
        output = epath.Path("export") / f"{name}{suffix}"
        files += [str(output), str(record_of(output, suffix))] if suffix else [f"{output}/"]
    files += ["profile/"] if also.profile and run.steps > PROFILED_FROM else []
    files += ["batches/"] if also.batch_digests else []
    return files + list(also.observers)


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
    run: Train,
    model_dir: str,
    library: Library,
    strategies: Sequence[str],
    k: int,
    also: Also = NOTHING,
) -> list[Plan]:
    """What `spot transfer` would train: the control, and a run for every start.

    Which sources are nearest is known once the control is trained.
    """
    sources = [entry.name for entry in library.entries() if entry.facts["task"] != run.data.task]
    nearest = min(k, len(sources))
    counts = {"best": nearest, "average": 1, "mixture": 2}
    folders = {
        "best": ["from_SOURCE_DIGEST/"],
        "average": ["average_DIGESTS_prompt/", "average_DIGESTS/"],
        "mixture": ["mixture_DIGESTS_together/", "mixture_DIGESTS/"],
    }
    control = plan_of_run(run, f"{model_dir}/control", also)
    runs = {"control": 1} | {name: counts[name] for name in strategies}
    made = [folder for name in strategies for folder in folders[name]]
    total = {
        "runs": runs,
        "sources": sources,
        "steps_in_all": run.steps * sum(runs.values()),
        "files": ["control/", *made, REPORT],
    }
    return [control, {"model_dir": model_dir, **total}]
