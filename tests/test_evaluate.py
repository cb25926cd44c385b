"""Decoding a split and scoring it; that the eval verb agrees with training is in test_train.py."""

import json

import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx

from prompt_jax.answer.answerer import Answerer, Answering, Question
from prompt_jax.backbone.load import load_backbone
from prompt_jax.data.source import Data
from prompt_jax.errors import UserError
from prompt_jax.evaluate.evaluation import PeriodicEvaluation
from prompt_jax.evaluate.opening import opening
from prompt_jax.evaluate.prompts import evaluate_prompts
from prompt_jax.evaluate.scorer import TaskScorer, write_predictions
from prompt_jax.methods.base import FixedPrompt, PromptedT5
from prompt_jax.model.sharding import MeshShape
from prompt_jax.prompt.layout import PromptLayout


def scorer(tiny, batch_size: int, layout=PromptLayout(), max_examples=None) -> TaskScorer:  # noqa: B008
    data = Data(task=str(tiny / "toy.train.jsonl"), input_length=28, target_length=4, batch_size=1)
    evaluation = PeriodicEvaluation(period=1, batch_size=batch_size, max_examples=max_examples)
    words = load_backbone(f"files:{tiny}/backbone", "float32").vocabulary
    return evaluation.read(data).open(words, layout, 0, MeshShape().build())


@pytest.fixture(scope="module")
def bare(tiny):
    model = load_backbone(f"files:{tiny}/backbone", "float32", None, MeshShape().build()).model
    return nnx.split(PromptedT5(model, FixedPrompt()))


def test_the_size_of_a_batch_changes_nothing(tiny, bare):
    graphdef, params = bare
    told = [scorer(tiny, size)(graphdef, nnx.State({}), params) for size in (8, 64)]
    for row, other in zip(told[0][1], told[1][1], strict=True):
        assert row.pop("score") == pytest.approx(other.pop("score"), rel=1e-4)
    assert told[0] == told[1]
    metrics, rows = told[0]
    assert set(metrics) == {"accuracy", "not_a_label"}  # the labels are those of the files
    assert [row["inputs"] for row in rows] == [f"say {'ab'[i % 2]} {i}" for i in range(60)]


def test_a_batch_is_rounded_up_to_the_devices(tiny):
    assert scorer(tiny, 3).answerer.batch_size == len(jax.devices())


def test_prompt_columns_go_where_the_layout_says(tiny):
    layout = PromptLayout(encoder=2, placement="suffix")
    questions = [Question(np.array([7, 8, 1], np.int32))]
    batch = scorer(tiny, 8, layout).answerer.batch(questions, 28)
    assert batch["encoder_input_tokens"].shape == (8, 28 + 2)
    assert batch["encoder_input_tokens"][0, :6].tolist() == [7, 8, 1, 0, 0, 0]
    assert batch["encoder_prompt_slots"][0, :6].tolist() == [0, 0, 0, 1, 2, 0]
    assert batch["encoder_segment_ids"][0, :6].tolist() == [1, 1, 1, 1, 1, 0]
    assert not batch["encoder_segment_ids"][1:].any()


def test_only_the_first_examples(tiny, bare):
    graphdef, params = bare
    _, rows = scorer(tiny, 8, max_examples=5)(graphdef, nnx.State({}), params)
    assert len(rows) == 5


def test_it_can_be_left_between_batches(tiny, bare):
    class Enough(Exception):
        pass

    def between():
        raise Enough

    with pytest.raises(Enough):
        scorer(tiny, 8)(bare[0], nnx.State({}), bare[1], between)


def test_predictions_are_written_as_they_are(tmp_path):
    rows = [{"inputs": "é", "prediction": "a\nb"}]
    write_predictions(epath.Path(tmp_path), "step_0", rows)
    text = (tmp_path / "predictions" / "step_0.jsonl").read_text()
    assert "é" in text
    assert [json.loads(line) for line in text.splitlines()] == rows
    write_predictions(epath.Path(tmp_path), "step_1", [])
    assert not (tmp_path / "predictions" / "step_1.jsonl").exists()


def test_a_bare_backbone_is_evaluated_too(tiny):
    told = evaluate_prompts(
        opening(f"files:{tiny}/backbone", [], input_length=28, target_length=4, dtype="float32"),
        str(tiny / "toy.train.jsonl"),
        "validation",
        max_examples=8,
    )[0]
    assert (told["split"], told["examples"]) == ("validation", 8)
    assert 0 <= told["accuracy"] <= 100


def test_a_backbone_without_a_tokenizer_is_refused(shared):
    with pytest.raises(
        UserError, match="no vocabulary; bind VOCABULARY in a recipe, give --vocabulary"
    ):
        evaluate_prompts(
            opening(f"hf:{shared}/golden/hf/t5_v11", []), "vader_polarity", "validation"
        )


TASK = """
from prompt_jax.metrics.retrieval import mined_f1, mining_target
from prompt_jax.metrics_text import accuracy
from prompt_jax.tasks.text import RowsSource, add_task, jsonl_task

jsonl_task("toy_labels", {"validation": "FOLDER/toy.validation.jsonl"}, choices=("a", "b"))
PAIRS = [("one", "one"), ("twenty", "twenty"), ("none", ""), ("", "only a target")]
rows = [{"inputs": i, "targets": t} for i, t in PAIRS]
source = RowsSource(lambda split: rows, ("validation",), "pairs")
add_task("toy_pairs", source, [], [mined_f1], None, mining_target)
"""


@pytest.fixture(scope="module")
def labels(tiny, tmp_path_factory):
    from prompt_jax.recipe.user_code import import_tasks_module

    module = tmp_path_factory.mktemp("tasks") / "toy_tasks.py"
    module.write_text(TASK.replace("FOLDER", str(tiny)))
    import_tasks_module(str(module))
    rng = np.random.default_rng(0)
    folder = module.parent
    for n, rows in enumerate((3, 3, 5)):
        np.save(folder / f"p{n}.npy", rng.normal(size=(rows, 16)).astype(np.float32))
    return [str(folder / f"p{n}.npy") for n in range(3)]


def opened(tiny, prompts=()):
    backbone = f"files:{tiny}/backbone"
    return opening(backbone, prompts, input_length=28, target_length=4, dtype="float32")


def run(tiny, prompts, task, **options):
    return evaluate_prompts(opened(tiny, prompts), task, "validation", batch_size=16, **options)


@pytest.mark.parametrize("names", [(0, 1), (0, 2)], ids=["one shape", "two shapes"])
def test_several_prompts_score_as_each_alone(tiny, labels, names):
    paths, how = [labels[n] for n in names], Answering(mode="rank")
    report, rows = run(tiny, prompts=paths, task="toy_labels", answering=how)
    for told, path in zip(report["prompts"], paths, strict=True):
        alone, _ = run(tiny, prompts=[path], task="toy_labels", answering=how)
        assert told == {"prompt": path, "accuracy": alone["accuracy"]}
    mean = sum(told["accuracy"] for told in report["prompts"]) / 2
    assert report["mean"]["accuracy"] == pytest.approx(mean)
    assert [row["prompt"] for row in rows] == [p for p in [*paths, "vote"] for _ in range(60)]
    table = report["confusion"]["toy_labels"]
    right = table["a"]["a"] + table["b"]["b"]
    assert report["vote"]["accuracy"] == pytest.approx(100 * right / 60)


def test_what_is_no_label_is_counted(tiny, labels):
    report, rows = run(tiny, prompts=[], task="toy_labels")
    wrong = [row for row in rows if row["prediction"] not in ("a", "b")]
    assert report["not_a_label"] == pytest.approx(100 * len(wrong) / 60)
    table = report["confusion"]["toy_labels"]
    assert sum(row["(not a label)"] for row in table.values()) == len(wrong)


def test_a_task_without_choices_is_not_ranked(tiny, labels):
    with pytest.raises(UserError, match="has no choices; declare choices="):
        run(tiny, prompts=[], task="toy_pairs", answering=Answering(mode="rank"))


def test_pairs_are_mined_by_vectors(tiny, labels):
    """Equal texts have equal vectors, so both pairs are found, and F1 chooses the threshold."""
    report, rows = run(tiny, prompts=[], task="toy_pairs", answering=Answering(mode="mine"))
    assert report["mining_recall"] == report["mining_f1"] == 100.0
    assert [row["prediction"] for row in rows] == ["one", "twenty", "", ""]
    _, rows = run(tiny, prompts=[], task="toy_pairs", answering=Answering(mode="retrieve"))
    assert [row["prediction"] for row in rows[:2]] == ["one", "twenty"]
    assert rows[0]["score"] == pytest.approx(1.0)
    assert rows[2]["prediction"] in ("one", "twenty", "only a target")


def test_prompts_of_other_lengths_need_a_word(tiny, tmp_path):
    from prompt_jax.evaluate.opening import trained
    from prompt_jax.prompt.artefact import Prompt

    saved = [Prompt({}, {"run": {"input_length": n}}, f"p{n}") for n in (64, 128)]
    with pytest.raises(UserError, match=r"different input_length \(p64: 64, p128: 128\); give --"):
        trained(saved, "input_length", 512)
    assert trained(saved[:1], "input_length", 512) == 64
    assert trained([], "input_length", 512) == 512


class Killed(Exception):
    pass


def test_a_killed_evaluation_goes_on(tiny, tmp_path, monkeypatch):
    """What was answered is not asked again, and the report is that of an undisturbed one."""
    task, journal = str(tiny / "toy.train.jsonl"), str(tmp_path / "journal.jsonl")

    def evaluate(split="validation", journal: str | None = journal):
        return evaluate_prompts(opened(tiny), task, split, batch_size=8, journal=journal)

    whole = evaluate(journal=None)
    asked, stream = [], Answerer.stream

    def killed(self, model, questions, between=None):
        asked.append(len(questions))
        for number, batch in enumerate(stream(self, model, questions)):
            if number == 3 and len(asked) == 1:
                raise Killed
            yield batch

    monkeypatch.setattr(Answerer, "stream", killed)
    with pytest.raises(Killed):
        evaluate()
    with open(journal, "a") as file:
        file.write('{"part": 0, "quest')  # cut short by the kill
    report, rows = evaluate()
    assert asked == [60, 60 - 3 * 8]
    assert report == whole[0]
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in whole[1]]
    assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in whole[1]])
    assert evaluate()[0] == report and asked[-1] == 0
    with pytest.raises(UserError, match=r"was made with split = validation, this is train; give"):
        evaluate("train")
