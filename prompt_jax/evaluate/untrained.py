"""The verb `untrained`: better answers of a frozen model, of which nothing is trained.

`gda` fits a head to labelled rows, `tfup` a cache to rows whose labels are not read, whose keys
`tfup_t` trains on them; `zpe` weighs several templates or prompts by the rows that they answer. All
of them rank the task's labels, and what they add is computed from the encoder's states and the
labels' log-likelihoods alone.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax.answer.answerer import Answer, Answering
from prompt_jax.data import named
from prompt_jax.data.split import Sampling, Split, TaskText
from prompt_jax.errors import UserError
from prompt_jax.evaluate import zpe
from prompt_jax.evaluate.evaluation import Evaluation
from prompt_jax.evaluate.evidence import Evidence
from prompt_jax.evaluate.fitted import HEADS, Fitted, Untrained
from prompt_jax.evaluate.members import Members
from prompt_jax.evaluate.opening import Opening
from prompt_jax.model import sharding
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.textfiles import read_lines


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
