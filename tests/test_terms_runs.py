"""Recipes whose objective carries a teacher, a head of its own or a rule with a state, as runs."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from flax import nnx

from prompt_jax.data.columns import with_columns
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.soft import SoftPromptModule
from prompt_jax.objective.columns import Numbers, View
from prompt_jax.objective.forwards import Forward, Passes
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.recipe import config
from prompt_jax.run.job import Run
from prompt_jax.run.log import read_metrics
from prompt_jax.run.settings import Train
from prompt_jax.run.state import Checkpoints, RunCheckpoints
from prompt_jax.run.train import train

LABELS = ("a", "b")
MORE = {
    "distil_nano": ["PROMPT_LENGTH=2"],
    "classifier_nano": [
        f"LABELS={LABELS}",
        "EncoderClassifier.export_head=True",
        "Train.post_update=@NormBall()",
        "NormBall.radius=0.01",
    ],
    "homeostasis_nano": ["PROMPT_LENGTH=4"],
}


def recipe(name: str, tiny: Path, *bindings: str) -> Train:
    """A recipe of nano on the backbone and the task of `tiny`."""
    shrunk = [
        f"BACKBONE='files:{tiny}/backbone'",
        f"TASK='{tiny}/toy.train.jsonl'",
        "INPUT_LENGTH=28",
        "TARGET_LENGTH=4",
        "BATCH_SIZE=8",
        "EVAL_PERIOD=4",
        "CHECKPOINT_PERIOD=2",
        "Train.log_period=2",
        "Schedule.total_steps=4",
    ]
    return config.load("Train", [f"runs/{name}.gin"], [*shrunk, *bindings]).root


@pytest.fixture(scope="module")
def teacher(tiny, tmp_path_factory) -> str:
    """A saved prompt of four encoder rows, and one of the decoder."""
    folder = tmp_path_factory.mktemp("teacher")
    bindings = ["SoftPrompt.decoder_length=1", "TRAIN_STEPS=1", "PROMPT_LENGTH=4"]
    train(recipe("quickstart", tiny, *bindings), str(folder))
    return str(folder / "prompt" / "last")


def state_of(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the last checkpoint, by name."""
    checkpoints = RunCheckpoints(epath.Path(folder), Checkpoints(), {})
    found = checkpoints.read_leaves(checkpoints.steps()[-1])
    checkpoints.close()
    return found


QUICK = "homeostasis_nano"  # its rule has a state


@pytest.mark.parametrize(
    "name", [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MORE]
)
def test_a_recipe_trains_and_goes_on_where_it_stopped(name, tiny, teacher, tmp_path):
    """Two steps and two more are four: every array that is checkpointed, bit by bit."""
    given = {"distil_nano": [f"TEACHER={teacher!r}"], "homeostasis_nano": [f"SOURCE={teacher!r}"]}
    bindings = [*MORE[name], *given.get(name, [])]
    if name == "homeostasis_nano":
        bindings.append("SoftPrompt.decoder_length=1")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe(name, tiny, *bindings, "TRAIN_STEPS=4"), str(whole))
    for steps in (2, 4):
        train(recipe(name, tiny, *bindings, f"TRAIN_STEPS={steps}"), str(parts))
    arrays, again = state_of(whole), state_of(parts)
    assert arrays.keys() == again.keys()
    for key, value in arrays.items():
        np.testing.assert_array_equal(value, again[key], err_msg=key)
    CHECKS[name](whole, arrays)


def check_distillation(folder, arrays):
    values = [r["term/Distillation"] for r in read_metrics(folder) if r["kind"] == "train"]
    assert len(values) == 2 and all(value > 0 for value in values)
    assert not any("teacher" in key for key in arrays)
    assert load_prompt(str(folder / "prompt" / "last")).array.shape == (2, 16)


def check_classifier(folder, arrays):
    """The head trains, at its own rate, beyond the ball that the rows are held in; it is saved
    beside the prompt because the term says so."""
    head = arrays["trainable.terms.EncoderClassifier.kernel.value"]
    assert head.shape == (16, 2) and np.abs(head).max() > 0
    rows = np.linalg.norm(arrays["trainable.prompt.encoder.value"], axis=1)
    assert rows.max() <= 0.01 * (1 + 1e-3)
    bias = arrays["trainable.terms.EncoderClassifier.bias.value"]
    assert np.linalg.norm(bias) < 4 * 0.3 * 0.001 * 2
    assert list(load_prompt(str(folder / "prompt" / "last")).arrays) == ["encoder"]
    beside = safetensors.numpy.load_file(folder / "prompt" / "last" / "terms.safetensors")
    np.testing.assert_array_equal(beside["EncoderClassifier/kernel"], head)


def check_homeostasis(folder, arrays):
    start = arrays["rule_state.start.prompt.encoder.value"]
    assert np.abs(arrays["rule_state.mean_square.prompt.encoder.value"]).max() > 0
    assert np.abs(arrays["trainable.prompt.encoder.value"] - start).max() > 0


CHECKS = {
    "distil_nano": check_distillation,
    "classifier_nano": check_classifier,
    "homeostasis_nano": check_homeostasis,
}


def test_a_teacher_answers_as_it_does_alone(tiny, teacher, tmp_path):
    """Its logits in the run's columns are those of the teacher's own run, row by row."""
    run = recipe("distil_nano", tiny, f"TEACHER={teacher!r}", "PROMPT_LENGTH=2", "TRAIN_STEPS=1")
    job = Run(run, epath.Path(tmp_path), jax.devices()[:1])
    prompt, layout = load_prompt(teacher), run.method.layout
    batch, _ = job.batch(0)

    @jax.jit
    def seen(trainable, frozen, batch):
        passes = Passes(nnx.merge(job.graphdef, trainable, frozen), batch, None, layout)
        return passes[Forward(artefact=teacher)].logits

    found = np.asarray(seen(job.trainable, job.frozen, batch))
    own = run.data.read().open(job.backbone.vocabulary, prompt.layout, run.seed).batch(0)
    alone = np.asarray(jax.jit(lambda t5, b: t5(b, prompt.bundle()))(job.backbone.model, own))
    real = np.asarray(batch["decoder_target_tokens"]) > 0
    np.testing.assert_allclose(found[real], alone[:, 1:][real], rtol=1e-4, atol=1e-4)


def test_a_head_is_not_saved_unless_the_term_says_so(tiny, tmp_path):
    run = recipe("classifier_nano", tiny, f"LABELS={LABELS}", "TRAIN_STEPS=1")
    job = Run(run, epath.Path(tmp_path), jax.devices()[:1])
    job.save_prompt(job.first_state(), "last", None)
    assert sorted(p.name for p in (tmp_path / "prompt" / "last").iterdir()) == [
        "manifest.json",
        "prompt.safetensors",
    ]


@pytest.mark.parametrize(
    ("name", "bindings", "message"),
    [
        ("classifier_nano", ["LABELS=('a',)"], "EncoderClassifier.labels"),
        ("classifier_nano", ["Data.packed=True"], "one example to a row; bind Data.packed=False"),
        ("classifier_nano", ["Train.group_rates={'Head': 1.0}"], "no group 'Head'"),
        ("homeostasis_nano", ["Homeostasis.decay=1.0", "SOURCE='x'"], "Homeostasis.decay"),
        ("distil_nano", ["Distillation.temperature=0", "TEACHER='x'"], "Distillation.temperature"),
    ],
)
def test_what_cannot_be_is_refused(tiny, name, bindings, message):
    with pytest.raises(UserError, match=message):
        recipe(name, tiny, *bindings, "TRAIN_STEPS=1")


def test_a_target_that_is_no_label_is_named(tiny, tmp_path):
    run = recipe("classifier_nano", tiny, "LABELS=('a', 'c')", "TRAIN_STEPS=1")
    with pytest.raises(UserError, match=r"row \d+ has the target 'b', none of a, c"):
        Run(run, epath.Path(tmp_path), jax.devices()[:1])


def test_a_teacher_of_other_rows_wants_rows_of_one_example(tiny, teacher, tmp_path):
    bindings = [f"TEACHER={teacher!r}", "PROMPT_LENGTH=2", "TRAIN_STEPS=1", "Data.packed=True"]
    with pytest.raises(UserError, match=r"bind Data\.packed=False"):
        Run(recipe("distil_nano", tiny, *bindings), epath.Path(tmp_path), jax.devices()[:1])


def test_a_view_and_numbers_come_from_fields_of_the_rows(tiny, tmp_path):
    """A pass over a view is the model's over that text; a missing field is named with its row."""
    rows = [
        {"inputs": f"say {n}", "targets": "a", "other": f"tell {n}", "score": n / 2}
        for n in range(8)
    ]
    (tmp_path / "rows.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = recipe(
        "quickstart",
        tiny,
        f"TASK='{tmp_path}/rows.train.jsonl'",
        "Data.packed=False",
        "PROMPT_LENGTH=2",
        "TRAIN_STEPS=1",
    )
    job = Run(run, epath.Path(tmp_path), jax.devices()[:1])
    words = job.backbone.vocabulary
    columns = (View("clean", "other"), Numbers("cached", ("score",)))
    batches = run.data.read().open(words, PromptLayout(encoder=2), 0)
    batch = with_columns(batches, columns, words).batch(0)
    shown = [batches.tasks[0].examples[piece.example] for (piece,) in batches.plan.batch(0)]
    np.testing.assert_allclose(batch["cached"][:, 0], [example["score"] for example in shown])
    texts = [words.decode(row[2:]) for row in batch["clean/encoder_input_tokens"]]
    assert texts == [example["other"] for example in shown]
    model = PromptedT5(job.backbone.model, SoftPromptModule(np.ones((2, 16), np.float32)))
    passes = Passes(model, batch, None, PromptLayout(encoder=2))
    seen = {**batch, **{k[6:]: v for k, v in batch.items() if k.startswith("clean/")}}
    wanted = model.t5.encode(seen, model.bundle(seen))
    np.testing.assert_allclose(passes[Forward(batch="clean")].encoded, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="row 1 has no field 'nothing'"):
        with_columns(batches, (View("clean", "nothing"),), words)
