"""What there is to see in a saved prompt: its rows, how they moved, and what each is worth."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from scipy.optimize import linear_sum_assignment

from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.data.split import Sampling, Split, TaskText
from prompt_jax.errors import UserError
from prompt_jax.evaluate.opening import trained
from prompt_jax.evaluate.prompts import answer_all
from prompt_jax.evaluate.scorer import TaskScorer
from prompt_jax.inspect.attention import attention_mass
from prompt_jax.inspect.nearest import COMMON, WARNING, described, drift, similarity
from prompt_jax.methods.parts.start import Start, embedding_of
from prompt_jax.model import sharding
from prompt_jax.prompt.artefact import Prompt, check_backbone, load_prompt
from prompt_jax.run.state import Checkpoints, RunCheckpoints
from prompt_jax.transfer.embed import folded, settings_of

SIDES, BATCH_SIZE = ("encoder", "decoder"), 64


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes:
      common, count: of `nearest.described`: compared pieces, and how many are named.
      task, split, max_examples: the text for attention and ablation; None: the prompt's own task.
      attention: measure what attention each row of the encoder gets.
      ablation: score the prompt without each of its rows.
    """

    common: int = COMMON
    count: int = 5
    task: str | None = None
    split: str = "validation"
    max_examples: int = 64
    attention: bool = False
    ablation: bool = False


def inspect_prompts(
    paths: Sequence[str], asked: Asked, *, backbone: str | None = None, run: str | None = None
) -> dict[str, Any]:
    """What the verb reports of one prompt, or of two and their rows side by side, as plain JSON.

    `backbone`: by default that of the first prompt's manifest. `run`: the model_dir whose
    checkpoints show how the rows moved; its best prompt where no path is given.

    Raises:
      UserError: a prompt that cannot be read, or is of another backbone; one without rows.
    """
    paths = list(paths) or [_of_run(run)]
    prompts = [load_prompt(path) for path in paths]
    manifest = prompts[0].manifest
    name = backbone or manifest.get("backbone", {}).get("name")
    if name is None:
        raise UserError(f"--prompt={paths[0]}", "names no backbone", "give --backbone")
    dtype, vocabulary = (trained(prompts, key, None) for key in ("dtype", "vocabulary"))
    loaded = load_backbone(name, dtype or "float32", vocabulary)
    if loaded.vocabulary is None:
        raise UserError(f"--backbone={name}", "has no vocabulary to compare with")
    table = embedding_of(loaded)
    shown = []
    for prompt in prompts:
        if prompt.manifest:
            check_backbone(prompt, loaded)
        facts = described(prompt.arrays, table, loaded.vocabulary, asked.common, asked.count)
        if not facts["sides"] and not asked.ablation and not asked.attention:
            names = ", ".join(prompt.arrays)
            raise UserError(
                f"--prompt={prompt.path}",
                f"has no rows among the text ({names})",
                "give a prompt of rows, or --attention for keys of a prefix",
            )
        facts = {"prompt": prompt.path, "method": prompt.manifest.get("method"), **facts}
        facts["similarity"] = {
            side: similarity(prompt.arrays[side]).round(4).tolist() for side in facts["sides"]
        }
        shown.append(facts | _measured(prompt, loaded, asked))
    report: dict[str, Any] = {"warning": WARNING, "backbone": name, "prompts": shown}
    if run is not None:
        report["drift"] = drift_of_run(run, loaded)
    if len(prompts) == 2:
        report["compared"] = compared(*prompts)
    return report


def _of_run(run: str | None) -> str:
    if run is None:
        raise UserError("inspect", remedy="give --prompt=DIR, or --run=MODEL_DIR")
    folders = [epath.Path(run) / "prompt" / name for name in ("best", "last")]
    found = [folder for folder in folders if (folder / "manifest.json").exists()]
    if not found:
        raise UserError(f"--run={run}", "holds no prompt yet", "give the --model_dir of a run")
    return str(found[0])


def drift_of_run(run: str, backbone: Backbone) -> list[dict[str, Any]]:
    """For each checkpoint that a run kept, how far the rows of each side are from step 0."""
    settings = settings_of(run)
    folder = epath.Path(run)
    if not (folder / "checkpoints").exists():
        raise UserError(f"--run={run}", "no checkpoints", "give the --model_dir of a run")
    start = Start(backbone, settings.data.choices())
    key = jax.random.fold_in(jax.random.key(settings.seed), 0)
    first = settings.method.fold(settings.method.create(key, start))
    checkpoints, rows = RunCheckpoints(folder, Checkpoints(), {}), []
    try:
        for step in checkpoints.steps():
            arrays = folded(settings, checkpoints.read_leaves(step))
            sides = {s: drift(first[s], arrays[s]) for s in SIDES if s in first and s in arrays}
            rows.append({"step": step, **sides})
    finally:
        checkpoints.close()
    return rows


def compared(one: Prompt, other: Prompt) -> dict[str, Any]:
    """Two prompts, side by side: the mean cosine of rows of the same place, that of the best pairs
    (the assignment of the greatest sum), and which row goes with which."""
    found = {}
    for side in SIDES:
        if side not in one.arrays or side not in other.arrays:
            continue
        a, b = one.arrays[side], other.arrays[side]
        if a.shape[1] != b.shape[1]:
            raise UserError(
                f"--prompt={other.path}", f"has rows of {b.shape[1]} numbers, not {a.shape[1]}"
            )
        cosines, same = similarity(a, b), min(len(a), len(b))
        rows, columns = linear_sum_assignment(-cosines)
        found[side] = {
            "mean_cosine_of_same_rows": float(np.mean(np.diag(cosines)[:same])),
            "mean_cosine_of_best_pairs": float(cosines[rows, columns].mean()),
            "best_pairs": [
                [int(r), int(c), float(cosines[r, c])] for r, c in zip(rows, columns, strict=True)
            ],
        }
    return found


def _measured(prompt: Prompt, backbone: Backbone, asked: Asked) -> dict[str, Any]:
    """What needs text: attention and ablation, as far as they are asked for."""
    if not (asked.attention or asked.ablation):
        return {}
    text = _text(prompt, asked)
    rows = text.rows(backbone.vocabulary)
    found: dict[str, Any] = {"task": text.split.task, "split": text.split.split}
    found["examples"] = sum(len(task) for task in rows)
    if asked.attention:
        found["attention"] = attention_mass(backbone, prompt, rows).round(6).tolist()
    if asked.ablation:
        found["ablation"] = ablation(prompt, backbone, text)
    return found


def _text(prompt: Prompt, asked: Asked) -> TaskText:
    task = asked.task or prompt.manifest.get("task")
    if task is None:
        raise UserError(f"--prompt={prompt.path}", "names no task", "give --task")
    limits = (trained([prompt], "input_length", 512), trained([prompt], "target_length", 64))
    return Split(task, asked.split, limits, Sampling(max_examples=asked.max_examples)).read()


def ablation(prompt: Prompt, backbone: Backbone, text: TaskText) -> dict[str, Any]:
    """The metrics with all rows (`whole`), and by side without each one (`without`, in order).

    A row is taken away, so that later rows move up. All these prompts are answered together.
    """
    sides = [side for side in SIDES if side in prompt.arrays]
    places = [(side, n) for side in sides for n in range(len(prompt.arrays[side]))]
    if prompt.layout.factors or not places:
        raise UserError(
            f"--prompt={prompt.path}", "has no plain rows to leave out", "leave out --ablation"
        )
    variants = [prompt, *(_without(prompt, side, n) for side, n in places)]
    mesh = sharding.MeshShape().build()
    scorer, answers = answer_all(
        lambda layouts: TaskScorer(text, backbone.vocabulary, layouts, mesh, BATCH_SIZE),
        backbone,
        variants,
        mesh,
    )
    whole, *rest = [scorer.score(said)[0] for said in answers]
    without: dict[str, list[dict[str, float]]] = {}
    for (side, _), metrics in zip(places, rest, strict=True):
        without.setdefault(side, []).append(metrics)
    return {"whole": whole, "without": without}


def _without(prompt: Prompt, side: str, row: int) -> Prompt:
    """The prompt with one row fewer; without its only row on a side, without that side."""
    rows = np.delete(prompt.arrays[side], row, axis=0)
    arrays = {name: x for name, x in prompt.arrays.items() if name != side}
    return dataclasses.replace(prompt, arrays=arrays | ({side: rows} if len(rows) else {}))
