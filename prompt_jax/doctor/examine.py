"""Before a run: one page that says whether it would work, and what to change where it would not.

`CHECKS` is the page: a line per check, each a small function from `Facts` to a `Line`. What several
need (an open checkpoint, the task's text) is found once; where finding it fails, the check that
owns it fails and the others say that they could not look. Nothing is compiled or trained.
"""

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from etils import epath

from prompt_jax.backbone import weights
from prompt_jax.backbone.formats.files import read_json
from prompt_jax.doctor.facts import BlockedError, Facts, labels_of, pieces, undeclared_in
from prompt_jax.errors import UserError
from prompt_jax.evaluate.scorer import MOST_LABELS
from prompt_jax.fit import estimate
from prompt_jax.paths import is_local
from prompt_jax.prompt.files import MANIFEST
from prompt_jax.run.folder import open_folder
from prompt_jax.run.log import check_best_metric
from prompt_jax.run.settings import Train
from prompt_jax.run.stages import Stages, stage_folder
from prompt_jax.splits import typed

Status = Literal["ok", "warn", "fail"]
MOST_CUT = 0.01  # a larger share of cut inputs is worth a word
GIB = 1 << 30


@dataclass(frozen=True)
class Line:
    """What a check found; `fix` is empty where all is well."""

    check: str
    status: Status
    value: str
    fix: str = ""


# The checks


def check_backbone(facts: Facts) -> Line:
    """Its names, shapes and every value can be read, and the values are numbers."""
    checkpoint, name = facts.checkpoint, facts.run.backbone.name
    assert facts.digest
    shapes = weights.t5x_shapes(checkpoint.config).values()
    count = sum(math.prod(shape) for shape in shapes)
    return Line("backbone", "ok", f"{name}: {len(shapes)} arrays, {count:,} parameters")


def check_digest(facts: Facts) -> Line:
    """The run that `model_dir` holds, if any, was begun with this backbone."""
    digest, path = facts.digest, epath.Path(facts.model_dir) / "prompt" / "last" / MANIFEST
    if path.exists():
        begun = read_json(path)["backbone"]
        if begun["digest"] != digest:
            value = f"{digest[:12]}; {facts.model_dir} was begun with {begun['digest'][:12]}"
            return Line("digest", "fail", value, f"BACKBONE = {begun['name']!r}, or another folder")
    return Line("digest", "ok", digest[:12])


def check_vocabulary(facts: Facts) -> Line:
    """Every id of the vocabulary has an embedding."""
    words, rows = facts.words, facts.checkpoint.config.vocab_size
    value = f"{words.size:,} ids for {rows:,} embeddings"
    fix = "bind VOCABULARY to the one that the backbone was trained with"
    if words.size > rows:
        return Line("vocabulary", "fail", value, fix)
    if 2 * words.size < rows:
        return Line("vocabulary", "warn", f"{value}: another model's?", fix)
    return Line("vocabulary", "ok", value)


def check_task(facts: Facts) -> Line:
    """What is trained on and what is evaluated on can be read."""
    counts = {name: len(examples) for name, examples in facts.examples.items()}
    if not counts:
        return Line("task", "ok", f"{type(facts.run.data).__name__} is not a task")
    value = ", ".join(f"{typed(name)} {count:,}" for name, count in counts.items())
    evaluation = facts.run.evaluation
    if evaluation is None:
        return Line("task", "warn", f"{value}; never evaluated", "bind Train.evaluation")
    held_out = facts.held_out
    value += f"; evaluated on {sum(map(len, held_out.values())):,}"
    if fewer := facts.shortfalls:
        return Line("task", "warn", f"{value}; {'; '.join(fewer)}", "get the whole set")
    return Line("task", "ok", value)


def check_labels(facts: Facts) -> Line:
    """Every label fits into TARGET_LENGTH and is made of pieces that the vocabulary has."""
    labels = [label for examples in facts.examples.values() for label in labels_of(examples)]
    others = [t for by_task in (facts.examples, facts.held_out) for t in undeclared_in(by_task)]
    if others:
        fix = "correct the rows, or declare them as choices of the task"
        return Line("labels", "fail", f"the target {others[0]!r} is none of the task's labels", fix)
    if not labels:
        if lost := facts.never_equal:
            target, back = next(iter(lost.items()))
            problem = f"{len(lost)} targets come back as others: {target[:40]!r} as {back[:40]!r}"
            return Line("labels", "warn", problem, "a metric of equal texts misses them")
        return Line("labels", "ok", f"no classification: over {MOST_LABELS} targets")
    words, limit = facts.words, facts.run.data.target_length
    longest = max(labels, key=lambda label: pieces(words, label))
    need = pieces(words, longest)
    value = f"{len(labels)} labels, the longest {need} of {limit} tokens"
    if need > limit:
        return Line("labels", "fail", f"{value}: {longest!r}", f"TARGET_LENGTH = {need}")
    unknown = [label for label in labels if words.unk_id in words.encode(label)]
    if unknown:
        fix = "write labels in the vocabulary's script, or take another backbone"
        return Line("labels", "warn", f"{unknown[0]!r} has unknown pieces", fix)
    if lost := facts.never_equal:
        label, back = next(iter(lost.items()))
        value = f"{len(lost)} targets, such as {label!r}, come back as others: {back!r}"
        return Line(
            "labels", "fail", value, "write them as the vocabulary does: no output equals them"
        )
    return Line("labels", "ok", value)


def check_metric(facts: Facts) -> Line:
    """The evaluation can score its split, and gives the metric by which the best is chosen."""
    run, metrics = facts.run, facts.metrics
    if not metrics:
        return Line("metric", "ok", "no metrics of tasks")
    if run.best_metric:
        check_best_metric(run.best_metric, metrics)
    shown = [name for name in metrics if "/" not in name] or list(metrics)
    best = f"best by {run.best_metric[0]}" if run.best_metric else "no BEST_METRIC"
    return Line("metric", "ok", f"{', '.join(shown)}; {best}")


def check_truncation(facts: Facts) -> Line:
    """How many inputs (and, but for labels, targets) the recipe's lengths cut."""
    sample, words, data = facts.sample, facts.words, facts.run.data
    if not sample:
        return Line("truncation", "ok", "nothing to cut")
    values, fixes = [], []
    for key, limit in (("inputs", data.input_length), ("targets", data.target_length)):
        if key == "targets" and all(labels_of(examples) for examples in facts.examples.values()):
            continue
        lengths = np.array([pieces(words, example[key]) for example in sample])
        share = float((lengths > limit).mean())
        values.append(f"{100 * share:.1f} % of {key} over {limit}")
        if share > MOST_CUT:
            macro = "INPUT_LENGTH" if key == "inputs" else "TARGET_LENGTH"
            enough = int(np.percentile(lengths, 99, method="inverted_cdf"))
            fixes.append(f"{macro} = {enough} keeps 99 % whole")
    value = ", ".join(values) + f" ({len(sample):,} examples)"
    return Line("truncation", "warn" if fixes else "ok", value, "; ".join(fixes))


def check_mesh(facts: Facts) -> Line:
    """Devices, rows and the dimensions of the weights divide as the mesh wants."""
    mesh = facts.mesh
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    kind = mesh.devices.flat[0].device_kind
    return Line("mesh", "ok", f"{sizes} on {mesh.size} {kind}")


def check_dtype(facts: Facts) -> Line:
    """T5 can run in it, and the stored weights did not lose their range before."""
    dtype = facts.dtype
    stored = sorted({str(x.dtype) for x in facts.checkpoint.arrays.stored.values()})
    matrices = "" if facts.weights_dtype is None else f", matrices {facts.weights_dtype}"
    value = f"{dtype}{matrices}, stored as {', '.join(stored)}"
    if "float16" in stored:
        fix = "take the float32 or bfloat16 weights: T5's large values do not fit float16"
        return Line("dtype", "warn", value, fix)
    if dtype == "bfloat16" and jax.default_backend() == "cpu":
        return Line("dtype", "warn", f"{value}; slow on a CPU", "Backbone.dtype = 'float32'")
    return Line("dtype", "ok", value)


def check_disk(facts: Facts) -> Line:
    """`model_dir` can be written, no other run holds it, and there is room for what is kept."""
    run = facts.run
    where = _try_to_write(facts.model_dir)
    if where is None:
        return Line("disk", "ok", f"{facts.model_dir} can be written")
    count = run.method.count(facts.checkpoint.config)
    state = 4 * count + estimate.optimizer_bytes(run.optimizer.build(), count)
    need = (run.checkpoints.keep + 1) * state + 3 * 4 * count  # one more while it is written
    free = shutil.disk_usage(where).free
    value = f"{_gib(free)} free, {_gib(need)} for {run.checkpoints.keep} checkpoints and prompts"
    if free < need:
        return Line("disk", "fail", value, "free some, or give another --model_dir")
    if free < 2 * need:
        return Line("disk", "warn", value, "free some: predictions and logs need room too")
    return Line("disk", "ok", value)


def check_memory(facts: Facts, together: int | None = None) -> Line:
    """Weights, trainables, optimizer and activations (an estimate) fit into a device.

    `together`: how many runs train in one step over the same weights; None: as the recipe says.
    """
    run, mesh = facts.run, facts.mesh
    config = dataclasses.replace(
        facts.checkpoint.config, dtype=facts.dtype, remat=run.backbone.remat
    )
    platform = mesh.devices.flat[0].platform
    needed = estimate.step_bytes(run, config, mesh, platform, facts.weights_dtype)
    if together is None:
        together = run.farm.together
    # Members lie along the axis `data`, each with its whole batch.
    data = mesh.shape["data"] if together > 1 else 1
    here = -(-together // data)
    frozen, trained, saved = needed
    trained, saved = here * trained, here * data * saved
    limit, total = estimate.device_bytes(mesh.devices.flat[0]), frozen + trained + saved
    value = (
        f"{_gib(total)} of {_gib(limit)} per device: weights {_gib(frozen)}, trained and optimizer "
        f"{_gib(trained)}, activations {_gib(saved)} (an estimate)"
    )
    value += f", {together} members at once" if together > 1 else ""
    fix = "Backbone.remat = 'full', a larger Train.accumulate, a smaller BATCH_SIZE, or more fsdp"
    if frozen + trained > limit or total > 2 * limit:
        return Line("memory", "fail", value, fix)
    if total > 0.8 * limit:
        return Line("memory", "warn", value, fix)
    return Line("memory", "ok", value)


CHECKS: dict[str, Callable[[Facts], Line]] = {
    "backbone": check_backbone,
    "digest": check_digest,
    "vocabulary": check_vocabulary,
    "task": check_task,
    "labels": check_labels,
    "metric": check_metric,
    "truncation": check_truncation,
    "mesh": check_mesh,
    "dtype": check_dtype,
    "disk": check_disk,
    "memory": check_memory,
}


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / (1 << 20):.2f} MiB"


def _try_to_write(model_dir: str) -> str | None:
    """Writes and removes a file there, or where the folder would be made; that local folder."""
    if not is_local(model_dir):
        probe = epath.Path(model_dir) / ".prompt-jax-doctor"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"model_dir {model_dir!r}",
                f"cannot be written ({error})",
                "give one that you may write",
            ) from None
        return None
    folder = Path(model_dir).expanduser().resolve()
    if folder.is_dir():
        with open_folder(str(folder)):
            pass
    while not folder.exists():
        folder = folder.parent
    try:
        descriptor, name = tempfile.mkstemp(prefix=".prompt-jax-doctor", dir=folder)
    except OSError as error:
        raise UserError(
            f"model_dir {model_dir!r}",
            f"cannot be written ({error.strerror} at {str(folder)!r})",
            "give --model_dir a folder of your own",
        ) from None
    os.close(descriptor)
    os.unlink(name)
    return str(folder)


def examine(run: Train, model_dir: str) -> list[Line]:
    """Every check of the page, in its order."""
    facts = Facts(run, model_dir)
    return [_checked(name, check, facts) for name, check in CHECKS.items()]


# What a later stage takes from those before it is not there yet, and is not looked at.
OF_A_LATER_STAGE = ("vocabulary", "task", "labels", "metric", "truncation", "mesh", "dtype")


def examine_stages(program: Stages, model_dir: str) -> list[Line]:
    """Every check of the first stage, and those of later ones that need nothing of it; a line's
    check begins with the number of its stage."""
    lines = []
    for number, stage in enumerate(program.stages, start=1):
        facts = Facts(stage.run, str(stage_folder(epath.Path(model_dir), number)))
        for name, check in CHECKS.items():
            if number == 1 or name in OF_A_LATER_STAGE:
                line = _checked(name, check, facts)
                lines.append(dataclasses.replace(line, check=f"{number} {name}"))
    return lines


def _checked(name: str, check: Callable[[Facts], Line], facts: Facts) -> Line:
    facts.checking = name
    try:
        return check(facts)
    except BlockedError as blocked:
        return Line(name, "warn", "not checked", f"first fix {blocked.args[0]}")
    except UserError as error:
        return Line(name, "fail", error.fault, error.remedy)


def recipe_line(files: Sequence[str], error: UserError | None = None) -> Line:
    """The line of the recipe itself, which comes before all others."""
    if error is None:
        return Line("recipe", "ok", ", ".join(files))
    return Line("recipe", "fail", str(error), "mend the recipe; nothing else was checked")
