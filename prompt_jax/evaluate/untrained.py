"""The verb `untrained`: better answers of a frozen model, without training anything.

`gda` fits a head to labelled rows, `tfup` a cache to rows whose labels are not read; `zpe` weighs
several templates or prompts by the rows that they answer. All of them rank the task's labels, and
what they add is computed from the encoder's states and the labels' log-likelihoods alone.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from prompt_jax.answer.answerer import Answer, Answering
from prompt_jax.backbone.load import Backbone
from prompt_jax.data import named
from prompt_jax.data.split import Sampling, Split, TaskText
from prompt_jax.errors import UserError, reading
from prompt_jax.evaluate import zpe
from prompt_jax.evaluate.evaluation import Evaluation, HeldOutTask
from prompt_jax.evaluate.evidence import Evidence, best_alpha, unit
from prompt_jax.evaluate.gda import GDA
from prompt_jax.evaluate.opening import Opening
from prompt_jax.evaluate.prompts import model_of, module_of
from prompt_jax.evaluate.scorer import TaskScorer
from prompt_jax.evaluate.tfup import TFUP
from prompt_jax.methods.base import FixedPrompt
from prompt_jax.model import sharding
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import settings
from prompt_jax.textfiles import read_lines

HEADS: dict[str, type[GDA] | type[TFUP]] = {"gda": GDA, "tfup": TFUP}
PLACE = "{inputs}"  # where a template has the row's text
SAVED = "give a file that `prompt-jax untrained --output` wrote"


@settings
class Untrained:
    """What is asked for.

    Attributes:
      method: `gda`, `tfup` or `zpe`.
      templates: texts in which `{inputs}` is the row's; only `zpe` takes several.
      fit_split: the rows that a head is fitted to.
      per_class: so many of every label of them; None: all.
      sample_seed: which ones.
      alpha: what the head's scores are times; None: gda's is chosen on `dev_split`, tfup's is 1.
      dev_split: neither fitted nor scored.
      texts: a text file, whose lines tell zpe what each member says whatever it reads.
      best: zpe takes the surest member alone.
      head: a saved head, in place of fitting one.
    """

    method: Literal["gda", "tfup", "zpe"]
    templates: tuple[str, ...] = (PLACE,)
    fit_split: str = "train"
    per_class: int | None = None
    sample_seed: int = 0
    alpha: float | None = None
    dev_split: str = "validation"
    texts: str | None = None
    best: bool = False
    head: str | None = None

    def check(self):
        if self.head is not None and not epath.Path(self.head).is_file():
            raise UserError(f"--head={self.head}", "no such file", SAVED)
        if self.texts is not None and not Path(self.texts).is_file():
            remedy = "give a file of one text a line"
            raise UserError(f"--texts={self.texts}", "no such file", remedy)
        for template in self.templates:
            if PLACE not in template:
                where = f"--template={template}"
                raise UserError(where, f"has no {PLACE}", f"say where {PLACE} stands")


@dataclass(frozen=True)
class Members:
    """Templates and prompts over one backbone; each pair of them is a member.

    Attributes:
      prompts: at least one; None: the bare backbone.
    """

    loaded: Backbone
    mesh: Mesh
    templates: Sequence[str]
    prompts: Sequence[Prompt | None]
    evaluation: Evaluation

    @cached_property
    def names(self) -> list[str]:
        """Of each member."""
        paths = ["bare" if prompt is None else prompt.path for prompt in self.prompts]
        return [f"{path} {template!r}" for template in self.templates for path in paths]

    def evidence(self, text: TaskText, labels: Sequence[str]) -> tuple[Evidence, TaskScorer]:
        """What all members say of the rows, and who scores them."""
        (name,) = text.examples
        targets = [str(example["targets"]) for example in text.examples[name]]
        numbers = {label: n for n, label in enumerate(labels)}
        features, scores, scorer = [], [], None
        for template in self.templates:
            rows = templated(text, template)
            for prompt in self.prompts:
                layout = PromptLayout() if prompt is None else prompt.layout
                module: nnx.Module = FixedPrompt()
                if prompt is not None:
                    module = module_of([prompt], self.loaded.model)
                held_out = HeldOutTask(self.evaluation, rows)
                scorer = held_out.scorer(self.loaded.vocabulary, [layout], self.mesh)
                model = model_of(self.loaded, module, self.mesh)
                (answers,) = scorer.answer(model)
                scores.append([[a.scores[label] for label in labels] for a in answers if a.scores])
                asked = scorer.questions([[0]])
                features.append(unit(scorer.answerer.embed(model, asked)))
        assert scorer is not None
        known = np.asarray([numbers.get(target, -1) for target in targets], np.int64)
        return Evidence(np.stack(features), np.asarray(scores, np.float32), known), scorer


def templated(text: TaskText, template: str) -> TaskText:
    """The rows with their inputs in a template."""
    if template == PLACE:
        return text
    examples = {
        name: [{**row, "inputs": template.replace(PLACE, row["inputs"])} for row in rows]
        for name, rows in text.examples.items()
    }
    return dataclasses.replace(text, examples=examples)


def answer_untrained(
    asked: Opening,
    task: str,
    split: str,
    how: Untrained,
    *,
    batch_size: int = 64,
    max_examples: int | None = None,
    length_normalised: bool = False,
    output: str | None = None,
) -> tuple[dict[str, Any], list[dict]]:
    """What the verb reports, and the predictions row by row; `output`: where a head is saved.

    Raises:
      UserError: a task without labels, a split that would choose and be scored, several members
        where the method takes one, or a head of another prompt, backbone or task.
    """
    labels = named.choices_of(task)
    if not labels:
        raise named.no_choices(task)
    _check_splits(how, split)
    prompts: Sequence[Prompt | None] = asked.prompts or [None]
    if how.method != "zpe" and len(how.templates) * len(prompts) > 1:
        given = f"{len(how.templates)} templates and {len(prompts)} prompts"
        raise UserError(f"--method={how.method}", f"takes one of each, not {given}", "or take zpe")
    answering = Answering(mode="rank", length_normalised=length_normalised)

    def rows_of(name: str, sampling: Sampling) -> TaskText:
        text = Split(task, name, asked.limits, sampling).read()
        if len(text.examples) > 1:
            raise UserError(f"--task={task}", "is several tasks", "name one")
        return text

    scored = rows_of(split, Sampling(max_examples=max_examples))
    evaluation = Evaluation(scored.split, answering, batch_size)
    mesh = sharding.MeshShape().build()
    members = Members(asked.load(mesh), mesh, how.templates, prompts, evaluation)
    evidence, scorer = members.evidence(scored, labels)
    if how.method == "zpe":
        scores, facts = _ensemble(members, how, scored, labels, evidence)
    else:
        head = Fitted.loaded(how, labels, members) if how.head else None
        if head is None:
            few = Sampling(how.per_class, seed=how.sample_seed)
            fitting, _ = members.evidence(rows_of(how.fit_split, few), labels)
            dev = None
            if how.alpha is None and len(HEADS[how.method].alphas) > 1:
                dev, _ = members.evidence(rows_of(how.dev_split, Sampling()), labels)
            head = Fitted.fitted(how, fitting, dev, labels)
        if output is not None:
            head.save(output, how, labels, members)
        scores = evidence.scores[0] + head.alpha * head.head.added(evidence)
        facts = {"alpha": head.alpha, "numbers": head.numbers}
    before, _ = scorer.score([_answers(evidence.scores[0], labels)])
    metrics, rows = scorer.score([_answers(scores, labels)])
    first = {f"first member: {name}": value for name, value in before.items()}
    counted = {"task": task, "split": split, "examples": len(evidence.labels)}
    return {**counted, "method": how.method, **facts, **first, **metrics}, rows


def _check_splits(how: Untrained, split: str) -> None:
    """UserError where rows would be scored that the head was made with, or alpha chosen by."""
    used = {"--fit_split": how.fit_split if how.method == "gda" else None}
    if how.method == "gda" and how.alpha is None:
        used["--dev_split"] = how.dev_split
    if how.head is not None:
        used = {}
    for name, value in used.items():
        if value == split:
            problem = "has the labels of the rows that are scored"
            raise UserError(f"{name}={value}", problem, "give another split")


def _answers(scores: np.ndarray, labels: Sequence[str]) -> list[Answer]:
    """The label with the highest score of each row, float32 [n, K]."""
    by_label = [dict(zip(labels, map(float, row), strict=True)) for row in scores]
    chosen = [max(of_row, key=of_row.__getitem__) for of_row in by_label]  # the first of equals
    return [Answer(c, of_row[c], of_row) for c, of_row in zip(chosen, by_label, strict=True)]


def _ensemble(
    members: Members, how: Untrained, scored: TaskText, labels: Sequence[str], evidence: Evidence
) -> tuple[np.ndarray, dict[str, Any]]:
    """ZPE's scores [n, K], and each member's weight."""
    texts = None
    if how.texts is not None:
        (name,) = scored.examples
        lines = [line for line in read_lines(Path(how.texts)) if line]
        rows = [{"inputs": line, "targets": labels[0], "choices": labels} for line in lines]
        texts = members.evidence(dataclasses.replace(scored, examples={name: rows}), labels)[0]
    sure = zpe.scores_of(evidence.scores, None if texts is None else texts.scores)
    weights = zpe.weights_of(sure, how.best)
    shown = {f"weight of {name}": float(w) for name, w in zip(members.names, weights, strict=True)}
    return zpe.combined(evidence.scores, weights), shown


@dataclass(frozen=True)
class Fitted:
    """A head, and what its scores are times."""

    head: GDA | TFUP
    alpha: float

    @property
    def numbers(self) -> int:
        """How many numbers a head has."""
        return sum(array.size for array in self.head.arrays.values())

    @classmethod
    def fitted(
        cls, how: Untrained, fitting: Evidence, dev: Evidence | None, labels: Sequence[str]
    ) -> "Fitted":
        """The head of rows; alpha as given, or chosen on `dev`, or the method's own."""
        kind = HEADS[how.method]
        if kind.needs_labels and (fitting.labels < 0).any():
            raise UserError(f"--fit_split={how.fit_split}", "has rows without a label of the task")
        head = kind.fit(fitting, labels)
        alpha = kind.alphas[0] if how.alpha is None else how.alpha
        if dev is not None:
            alpha = best_alpha(kind.alphas, dev.scores[0], head.added(dev), dev.labels)
        return cls(head, alpha)

    @classmethod
    def loaded(cls, how: Untrained, labels: Sequence[str], members: Members) -> "Fitted":
        """A saved head.

        Raises:
          UserError: it was fitted with another method, prompt, template, backbone or labels.
        """
        where = f"--head={how.head}"
        with (
            reading(where, SAVED),
            safetensors.safe_open(str(how.head), "numpy") as file,
        ):
            about = json.loads((file.metadata() or {})["prompt_jax"])
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
        for name, value in _about(how, labels, members).items():
            if about[name] != value:
                raise UserError(
                    where, f"has the {name} {about[name]!r}, not {value!r}", "fit it again"
                )
        return cls(HEADS[how.method](arrays), about["alpha"] if how.alpha is None else how.alpha)

    def save(self, path: str, how: Untrained, labels: Sequence[str], members: Members) -> None:
        """Writes the arrays, and what they belong to, as one safetensors file."""
        about = json.dumps({**_about(how, labels, members), "alpha": self.alpha})
        arrays = {name: np.ascontiguousarray(x) for name, x in self.head.arrays.items()}
        epath.Path(path).write_bytes(safetensors.numpy.save(arrays, {"prompt_jax": about}))


def _about(how: Untrained, labels: Sequence[str], members: Members) -> dict[str, Any]:
    """What a head belongs to."""
    (prompt,) = members.prompts
    return {
        "method": how.method,
        "labels": list(labels),
        "template": how.templates[0],
        "backbone": members.loaded.digest,
        "prompt": None if prompt is None else prompt.manifest.get("sha256", prompt.path),
    }
