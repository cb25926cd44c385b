"""T-Few: choices that share an encoded text, its two losses, and scales begun at others."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.cli.main import main
from prompt_jax.data.columns import features, with_columns
from prompt_jax.data.rows import rows_of
from prompt_jax.data.source import Data, TaskBatches
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.ia3 import IA3
from prompt_jax.methods.lora import LoRA
from prompt_jax.methods.parts.start import Start
from prompt_jax.methods.prefix import PrefixTuning
from prompt_jax.methods.soft import SoftPrompt, SoftPromptModule
from prompt_jax.model.t5 import T5
from prompt_jax.objective.columns import Choices
from prompt_jax.objective.forwards import OWN, Forward, Passes
from prompt_jax.objective.t_few import LengthNormalised, Unlikelihood
from prompt_jax.prompt.artefact import save_prompt
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.recipe import config
from prompt_jax.run.log import read_metrics
from prompt_jax.run.stages import Done, PassPrompt, Stage, Stages, check_shapes, resolved
from prompt_jax.tasks import raft

LAYOUT = PromptLayout(encoder=2, decoder=1)
CHOICES = ["a", "ab", "abc"]


@pytest.fixture(scope="module")
def backbone(tiny: Path) -> Backbone:
    return load_backbone(f"files:{tiny}/backbone", "float32")


ROWS = [  # with choices of their own
    {"inputs": f"say {n}", "targets": CHOICES[n % 2], "choices": CHOICES[: 2 + n % 2]}
    for n in range(6)
]


def batch_of(rows: Any, backbone: Backbone, column: Choices) -> dict[str, np.ndarray]:
    data = Data(task="rows", input_length=12, target_length=5, batch_size=4, packed=False)
    tasks = [rows_of("rows", rows, backbone.vocabulary, (12, 5))]
    batches = TaskBatches(tasks, [1.0], data, LAYOUT, 0)
    return dict(with_columns(batches, (column,), backbone.vocabulary).batch(0))


def test_other_choices_are_segments_that_read_the_rows_one_text(backbone, monkeypatch):
    """Their logits are those of each choice alone, and the text is encoded once."""
    column = Choices(columns=10)
    batch = batch_of(ROWS, backbone, column)
    rng = np.random.default_rng(0)
    encoder, decoder = (rng.normal(size=(n, 16)).astype(np.float32) for n in (2, 1))
    module = SoftPromptModule(encoder, decoder)
    model, calls = PromptedT5(backbone.model, module), []
    for name in ("encode", "decode"):
        make = vars(T5)[name]
        monkeypatch.setattr(T5, name, lambda *args, n=name, m=make: calls.append(n) or m(*args))

    def both(batch):
        passes = Passes(model, batch, None, LAYOUT)
        return passes[OWN].logits, passes[Forward(batch=column.name)].logits

    _, logits = jax.jit(both)(batch)
    assert sorted(calls) == ["decode", "decode", "encode"]
    monkeypatch.undo()
    forward, words, seen = jax.jit(lambda batch: model(batch)), backbone.vocabulary, 0
    names = ("input_tokens", "target_tokens", "segment_ids", "prompt_slots", "task_ids")
    for b in range(4):
        segments = batch[f"{column.name}/decoder_segment_ids"][b]
        target = words.decode(batch["decoder_target_tokens"][b].tolist())
        others = []
        for segment in range(1, segments.max() + 1):
            at = np.flatnonzero(segments == segment)
            alone = {k: v[b : b + 1] for k, v in batch.items() if "/" not in k}
            for name in names:
                row = np.zeros((1, 6), np.int32)
                row[0, : len(at)] = batch[f"{column.name}/decoder_{name}"][b, at]
                alone[f"decoder_{name}"] = row
            alone["decoder_segment_ids"] = np.minimum(alone["decoder_segment_ids"], 1)
            wanted = np.asarray(forward(alone))[0, : len(at)]
            np.testing.assert_allclose(logits[b, at], wanted, rtol=1e-4, atol=1e-4)
            others.append(words.decode(alone["decoder_target_tokens"][0].tolist()))
        assert [target, *others] in (["a", "ab"], ["ab", "a", "abc"])
        seen += len(others)
    assert seen >= 5


def passes_of(probabilities: Any, segments: Any) -> Any:
    """A pass whose targets, all token 0, have these probabilities; 0: padding."""
    p, segments = jnp.asarray(probabilities, jnp.float32), jnp.asarray(segments, jnp.int32)
    logits = jnp.log(jnp.stack([p, 1 - p], axis=-1).clip(1e-9))
    weights = (segments > 0).astype(jnp.float32)
    targets = jnp.zeros(p.shape, jnp.int32)
    batch = {"decoder_target_tokens": targets, "decoder_segment_ids": segments}
    return SimpleNamespace(logits=logits, batch={**batch, "decoder_loss_weights": weights})


@pytest.mark.parametrize(
    ("term", "wanted"),
    [
        # (-ln 0.51 - ln 0.76 - ln 0.885) / 3, over the first row's three tokens and no padding
        (Unlikelihood(width=4), 0.3566499),
        # The target's mean log-likelihood per token is -1.0397208, those of the others -0.6931472
        # and -1.7328680; -ln of its share of the three. The second row has no other choice.
        (LengthNormalised(width=4), 1.0695999),
    ],
)
def test_the_losses_are_those_of_the_formulas(term, wanted):
    own = passes_of([[0.5, 0.25, 0], [0.125, 0, 0]], [[1, 1, 0], [1, 0, 0]])
    others = passes_of([[0.5, 0.25, 0.125, 0], [0, 0, 0, 0]], [[1, 2, 2, 0], [0, 0, 0, 0]])
    passes: Any = {OWN: own, Forward(batch="choices_4"): others}
    value = term.open(None, PromptLayout())(passes, own.batch)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_choices_without_room_are_refused_or_left_out(backbone):
    with pytest.raises(UserError, match=r"row 2 take 8 columns of 6; give the terms width = 8 or"):
        batch_of(ROWS, backbone, Choices(columns=6))
    column = Choices(columns=6, skip_longer=True)
    segments = batch_of(ROWS, backbone, column)[f"{column.name}/decoder_segment_ids"]
    assert set(segments.max(axis=1)) == {0, 1}
    data = Data(task="rows", input_length=12, target_length=5, batch_size=4, packed=False)
    shapes = {name: x.shape for name, x in features(data, LAYOUT, (column,)).items()}
    assert shapes[f"{column.name}/decoder_source_segment_ids"] == (4, 6)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"targets": "b", "choices": ["a", "c"]}, "row 1 has the target 'b', none of its choices"),
        ({"targets": "b", "choices": []}, "has no choices"),
    ],
)
def test_rows_that_give_no_choice_are_named(row, message, backbone):
    with pytest.raises(UserError, match=message):
        batch_of([{"inputs": "say", **row}], backbone, Choices(columns=6))


def save(folder: Path, method: Any, arrays: dict[str, np.ndarray], backbone: Backbone) -> str:
    facts = dict.fromkeys(("tokenizer", "task", "metric", "step", "seed"))
    of = {"backbone": {"name": backbone.name, "digest": backbone.digest}}
    save_prompt(folder, arrays, {**method.manifest(), **method.seen(), **facts, **of})
    return str(folder)


def test_scales_begin_at_saved_ones(backbone, tmp_path):
    start, key, rng = Start(backbone), jax.random.key(0), np.random.default_rng(0)
    arrays = IA3().fold(IA3().create(key, start))
    saved = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in arrays.items()}
    method = IA3().continued(save(tmp_path / "scales", IA3(), saved, backbone))
    begun = method.fold(method.create(key, start))
    assert begun.keys() == saved.keys()
    for name, value in saved.items():
        np.testing.assert_array_equal(begun[name], value)
    rows = {"encoder": np.zeros((2, 16), np.float32)}
    prompt = save(tmp_path / "rows", SoftPrompt(length=2), rows, backbone)
    with pytest.raises(UserError, match="holds encoder, for which the run has no place"):
        IA3(start=prompt).create(key, start)


def test_t_few_begins_its_few_examples_at_the_scales_of_the_mixture(tmp_path):
    program = config.load(("Stages", "Train"), ["runs/t_few_nano.gin"], []).root
    assert isinstance(program, Stages)
    mixture, few = resolved(program, epath.Path("D"))
    assert few.method == IA3(start="D/stage_1/prompt/best")
    assert [type(term).__name__ for term in few.terms] == ["Unlikelihood", "LengthNormalised"]
    assert (mixture.terms, mixture.method) == ((), IA3())
    later = dataclasses.replace(few, method=PrefixTuning())
    with pytest.raises(UserError, match="a later stage trains PrefixTuning, which does not begin"):
        PassPrompt().rewire(later, Done(mixture, epath.Path("D")), ("D/stage_1/prompt/best",))


def test_lora_begins_at_saved_factors(backbone, tmp_path):
    """The saved B has alpha / r in it: 4 / 2 here, and 2 / 2 where it goes on."""
    start, key, rng = Start(backbone), jax.random.key(0), np.random.default_rng(0)
    method = LoRA(rank=2, alpha=4.0)
    module = method.create(key, start)
    b = module.encoder["query"]["b"]
    b[...] = jnp.asarray(rng.normal(size=b.shape), jnp.float32)
    saved = method.fold(module)
    assert np.abs(saved["encoder_layers/attention/query/b"]).max() > 0
    path = save(tmp_path / "factors", method, saved, backbone)
    later = LoRA(rank=2, alpha=2.0).continued(path)
    begun = later.create(key, start)
    found = later.fold(begun)
    assert found.keys() == saved.keys()
    for name, value in saved.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    np.testing.assert_allclose(begun.encoder["query"]["b"][...], 2 * b[...], rtol=1e-6)
    with pytest.raises(UserError, match=r"query/a .*, 2\], the run needs .*, 3\]; give"):
        LoRA(rank=3, start=path).create(key, start)
    with pytest.raises(UserError, match=r"holds no .*/key/., which the run"):
        LoRA(rank=2, targets=("query", "key", "value"), start=path).create(key, start)


@pytest.mark.parametrize("later", [LoRA(rank=4), IA3()])
def test_a_prompt_that_does_not_fit_a_later_stage_is_refused_before_the_first(later, tiny):
    stage = config.load("Train", ["runs/lora_nano.gin"], [f"BACKBONE='files:{tiny}/backbone'"]).root
    run = dataclasses.replace(stage, method=LoRA(rank=8))
    first = Stage(run=run, on_end=(PassPrompt(),))
    check_shapes(Stages(stages=(first, Stage(run=run))))
    second = Stage(run=dataclasses.replace(run, method=later))
    with pytest.raises(UserError, match=r"the stage leaves decoder_layers/.*, a later one begins"):
        check_shapes(Stages(stages=(first, second)))


@pytest.mark.slow
def test_rafts_eleven_tasks_are_one_command(tiny, backbone, tmp_path):
    """A run for each, from saved scales; the rows without labels are answered with the labels."""
    for task, (texts, labels, _) in raft.TASKS.items():
        folder = tmp_path / "data" / "raft" / "data" / task
        folder.mkdir(parents=True)
        fields = [*texts, "ID"]
        rows = [",".join(["x", *["y"] * len(texts[1:]), str(n), labels[n]]) for n in range(2)]
        train = [",".join([*fields, "Label"]), *rows]
        (folder / "train.csv").write_text("\n".join(train) + "\n")
        (folder / "test_unlabeled.csv").write_text(
            "\n".join([",".join(fields), ",".join(["z"] * len(texts)) + ",9"]) + "\n"
        )
    start = Start(backbone)
    arrays = IA3().fold(IA3().create(jax.random.key(0), start))
    scales = save(tmp_path / "scales", IA3(), arrays, backbone)
    bindings = {
        "BACKBONE": f"'files:{tiny}/backbone'",
        "START": f"'{scales}'",
        "INPUT_LENGTH": 32,
        "TARGET_LENGTH": 60,
        "CHOICE_COLUMNS": 100,
        "TRAIN_STEPS": 2,
        "BATCH_SIZE": 8,
        "Schedule.warmup_steps": 1,
        "Farm.at_once": 2,
    }
    flags = [f"--gin.{name}={value}" for name, value in bindings.items()]
    flags += ["--gin_file=runs/t_few_raft.gin", f"--data_dir={tmp_path}/data"]
    assert main(["train", *flags, f"--model_dir={tmp_path}/D"]) == 0
    for task, (_, labels, _) in raft.TASKS.items():
        member = tmp_path / "D" / "members" / f"TASK_raft_{task}"
        (line,) = (member / "predictions" / "step_2.jsonl").read_text().splitlines()
        row = json.loads(line)
        assert row["prediction"] in labels and set(row["scores"]) == set(labels)
        records = read_metrics(epath.Path(member))
        (trained,) = [r for r in records if r["kind"] == "train"]
        assert (trained["term/LengthNormalised"] > 0) is (task != "banking_77")
