"""The `eval` verb: saved prompts on a split of a task, with the backbone loaded once.

Several prompts are answered in the same batches, each row with its own prompt, also a prefix beside
a LoRA and plain rows. Their majority vote is an ensemble (Lester et al. 2021, section 7).
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from prompt_jax import hosts
from prompt_jax.answer.answerer import Answer, Answering, Model
from prompt_jax.answer.journal import Journal
from prompt_jax.answer.output import Output
from prompt_jax.backbone.load import Backbone
from prompt_jax.data.split import Sampling, Shown, Split
from prompt_jax.errors import UserError
from prompt_jax.evaluate.evaluation import Evaluation, HeldOutTask
from prompt_jax.evaluate.opening import Opening, default
from prompt_jax.evaluate.scorer import Answers, TaskScorer
from prompt_jax.methods.base import FixedPrompt, PromptedT5, method_named
from prompt_jax.metrics.generation import bleu_signatures
from prompt_jax.model import sharding
from prompt_jax.model.bundle import Visibility
from prompt_jax.model.t5 import T5
from prompt_jax.objective import heads
from prompt_jax.prompt import computed
from prompt_jax.prompt.artefact import Prompt, load_beside
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.prompt.stack import PromptStack


def evaluate_prompts(
    asked: Opening,
    task: str,
    split: str,
    *,
    batch_size: int = 64,
    max_examples: int | None = None,
    shots: int | None = None,
    shots_seed: int | None = None,
    answering: Answering = Answering(),  # noqa: B008 (frozen)
    journal: str | None = None,
) -> tuple[dict[str, Any], list[dict]]:
    """What the `eval` verb reports, and the predictions row by row.

    `asked` is the backbone with the prompts (none: the bare backbone). `shots` demonstrations of
    the split `train` stand before each input, drawn by `shots_seed`; by default as the prompts
    were trained. `journal` is a file that keeps every answer: a killed evaluation goes on after
    them (what `retrieve` and `mine` do is not kept). Of several prompts the report has the metrics
    of each, their mean, and those of the vote. Several processes answer every batch together, and
    all of them have the whole report.

    Raises:
      UserError: a prompt that does not fit, or prompts that were trained with other shots.
    """
    if journal is not None and hosts.several():
        raise UserError(
            f"--journal={journal}", "can be kept by one process only", "leave it out with several"
        )
    saved = asked.prompts
    if answering.mode == "head" and not saved:
        raise UserError("--mode=head", "no prompt, so no head", "give the --prompt that has one")
    train = Split(task, "train", asked.limits)
    shown = Shown(
        default(shots, saved, "demonstrations", 0),
        default(shots_seed, saved, "demonstration_seed", 0),
        train,
    )
    rows = Split(task, split, asked.limits, Sampling(max_examples=max_examples), shown)
    held_out = Evaluation(rows, answering, batch_size).read()
    mesh = sharding.MeshShape().build()
    loaded = asked.load(mesh)

    with contextlib.ExitStack() as stack:
        answers_on_disk = None
        if journal is not None:
            settings = _settings(held_out, asked, loaded)
            answers_on_disk = Journal(stack.enter_context(Output(journal, settings, "--journal")))

        def open_scorer(layouts: Sequence[PromptLayout]) -> TaskScorer:
            return held_out.scorer(loaded.vocabulary, layouts, mesh, answers_on_disk)

        scorer, answers = answer_all(open_scorer, loaded, saved, mesh, answering.mode == "head")
    report = {"task": task, "split": split, "examples": sum(map(len, scorer.tasks))}
    if fewer := held_out.shortfalls():
        report["published"] = "; ".join(fewer)
    if len(answers) == 1:
        metrics, predictions = scorer.score(answers[0])
        table = scorer.confusion(answers[0])
        signed = _signatures(scorer, metrics)
        return report | metrics | signed | ({"confusion": table} if table else {}), predictions
    return report | _compare(scorer, saved, answers), _numbered(scorer, saved, answers)


def _signatures(scorer: TaskScorer, metrics: Mapping[str, float]) -> dict[str, Any]:
    """{"signatures": sacreBLEU's} where there is a BLEU, whose number means nothing without it."""
    most = max(len(e.get("answers", ())) for task in scorer.tasks for e in task.examples)
    names = {name.rpartition("/")[2] for name in metrics}
    signed = bleu_signatures(names, max(most, 1))
    return {"signatures": signed} if signed else {}


def _settings(held_out: HeldOutTask, asked: Opening, backbone: Backbone) -> dict[str, Any]:
    """What answers depend on; a journal of other ones is refused."""
    split = held_out.evaluation.split
    return {
        "task": split.task,
        "split": split.split,
        "inputs": held_out.text.asked_digest(),
        "prompts": [prompt.manifest.get("sha256", prompt.path) for prompt in asked.prompts],
        "backbone": backbone.digest,
        "dtype": asked.dtype,
        "weights_dtype": asked.weights_dtype,
        "lengths": list(split.limits),
        "how": held_out.evaluation.answering.record(),
    }


def answer_all(
    open_scorer: Callable[[Sequence[PromptLayout]], TaskScorer],
    backbone: Backbone,
    prompts: Sequence[Prompt],
    mesh: Mesh,
    by_head: bool = False,
) -> tuple[TaskScorer, list[Answers]]:
    """The answers with each prompt, all in the same batches where they may be; `by_head`: by the
    head that each was saved with, one after another."""
    if not prompts:
        scorer = open_scorer([PromptLayout()])
        return scorer, [scorer.answer(model_of(backbone, FixedPrompt(), mesh))]
    answers: dict[int, Answers] = {}
    groups = [[n] for n in range(len(prompts))] if by_head else together(prompts)
    for numbers in groups:
        some = [prompts[n] for n in numbers]
        scorer = open_scorer([prompt.layout for prompt in some])
        module = module_of(some, backbone.model, computed.weights_of(backbone))
        model = model_of(backbone, module, mesh, head_of(some[0]) if by_head else None)
        answers |= dict(zip(numbers, scorer.answer_all(model, len(some)), strict=True))
    return scorer, [answers[n] for n in range(len(prompts))]


def together(prompts: Sequence[Prompt]) -> list[list[int]]:
    """The numbers of the prompts by batch: all that fold and share their visibility are in one.
    Prompts that are computed once are keys and values, which go with any that see everything; one
    that does not fold, as of `Attempt`, makes its rows from each input and is answered alone."""
    groups: dict[Any, list[int]] = {}
    for number, prompt in enumerate(prompts):
        policy = Visibility() if prompt.visibility.computed_once else prompt.visibility
        groups.setdefault(policy if prompt.folds else number, []).append(number)
    return list(groups.values())


def module_of(prompts: Sequence[Prompt], t5: T5, weights: str | None = None) -> nnx.Module:
    """Saved prompts as a module; one that does not fold is restored by its method. Those that are
    computed once go through the encoder now, and never again, or were saved for these `weights`
    (`computed.weights_of`)."""
    if len(prompts) == 1 and not prompts[0].folds:
        return method_named(prompts[0].manifest["method"]).restored(prompts[0])
    made = partial(computed.bundle, t5=t5, weights=weights)
    return FixedPrompt(PromptStack(prompts, made).bundle())


def head_of(prompt: Prompt) -> nnx.Dict:
    """The head that a prompt was saved with; UserError if there is none."""
    return heads.restored(load_beside(prompt.path), f"prompt {prompt.path!r}")


def model_of(
    backbone: Backbone, module: nnx.Module, mesh: Mesh, head: nnx.Dict | None = None
) -> Model:
    """A model to answer with; the prompt and its head are on every device of every process."""
    graphdef, params = nnx.split(PromptedT5(backbone.model, module, head))
    return graphdef, nnx.State({}), jax.device_put(params, sharding.params(mesh, params))


def vote(answers: Sequence[Sequence[Answer]]) -> list[Answer]:
    """The majority's answer to every example; its score is its share of the votes.

    Of texts with equally many votes the one with the greatest sum of scores wins, then the first.
    """
    chosen = []
    for given in zip(*answers, strict=True):
        votes = Counter(answer.text for answer in given)
        weight = {text: sum(a.score for a in given if a.text == text) for text in votes}
        best = max(votes, key=lambda text: (votes[text], weight[text]))
        chosen.append(Answer(best, votes[best] / len(given)))
    return chosen


def ensemble(answers: Sequence[Answers]) -> Answers:
    """The vote of several prompts, task by task."""
    return [vote(by_prompt) for by_prompt in zip(*answers, strict=True)]


def _compare(scorer: TaskScorer, prompts: Sequence[Prompt], answers: Sequence[Answers]) -> dict:
    each = [scorer.score(own)[0] for own in answers]
    mean = {name: float(np.mean([metrics[name] for metrics in each])) for name in each[0]}
    both = ensemble(answers)
    rows = [{"prompt": p.path, **metrics} for p, metrics in zip(prompts, each, strict=True)]
    report = {"prompts": rows, "mean": mean, "vote": scorer.score(both)[0]}
    table = scorer.confusion(both)
    return report | ({"confusion": table} if table else {})


def _numbered(
    scorer: TaskScorer, prompts: Sequence[Prompt], answers: Sequence[Answers]
) -> list[dict]:
    """The predictions of every prompt, each row with its prompt's path; last those of the vote."""
    names = [*(prompt.path for prompt in prompts), "vote"]
    named = zip(names, [*answers, ensemble(answers)], strict=True)
    return [{"prompt": name, **row} for name, own in named for row in scorer.score(own)[1]]
