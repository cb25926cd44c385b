"""Demonstrations before an input: which ones, their form and room, in training and evaluation."""

import json

import numpy as np
import pytest

from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.cli.main import main
from prompt_jax.data import token_cache
from prompt_jax.data.demonstrations import Demonstrations
from prompt_jax.data.source import Data
from prompt_jax.errors import UserError
from prompt_jax.evaluate.evaluation import PeriodicEvaluation
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.prompt.layout import PromptLayout

WORDS = Vocabulary.bytes()


@pytest.fixture
def task(tmp_path) -> str:
    """Twelve training and six validation examples, none in both."""
    for split, count in (("train", 12), ("validation", 6)):
        rows = [{"inputs": f"{split} {i}", "targets": "ab"[i % 2]} for i in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"own.{split}.jsonl").write_text(text)
    return str(tmp_path / "own.train.jsonl")


def data(task: str, **changes) -> Data:
    sizes = {"input_length": 64, "target_length": 4, "batch_size": 2, "demonstrations": 1}
    return Data(**{"task": task, **sizes, **changes})


def asked(read) -> list[str]:
    """The inputs of the one task, with their demonstrations."""
    (name,) = read.examples
    return list(read.text.asked(name))


def lines_of(text) -> list[tuple[str, str]]:
    """(what is shown, own input) of each example."""
    return [tuple(line.rsplit("; ", 1)) for line in asked(text)]


def test_an_example_never_sees_itself_and_the_draw_is_of_seed_and_number(task):
    read = data(task).read()
    (examples,) = read.examples.values()
    label = {e["inputs"]: e["targets"] for e in examples}
    for (shown, own), example in zip(lines_of(read), examples, strict=True):
        question, answer = shown.split(" answer: ")
        assert own == example["inputs"] != question
        assert label[question] == answer
    assert len({shown for shown, _ in lines_of(read)}) > 4
    assert asked(data(task).read()) == asked(read)
    assert asked(data(task, demonstration_seed=1).read()) != asked(read)
    two = asked(data(task, demonstrations=2).read())
    assert all(line.count(" answer: ") == 2 and line.count("; ") == 2 for line in two)


def test_only_what_is_trained_on_is_shown(task):
    few = data(task, max_examples=3).read()
    assert {shown[:7] for shown, _ in lines_of(few)} <= {f"train {i}" for i in range(3)}
    training = data(task, sampled_examples=4)
    (kept,) = training.read().examples.values()
    held_out = PeriodicEvaluation(period=1).read(training)
    assert [own for _, own in lines_of(held_out)] == [f"validation {i}" for i in range(6)]
    shown = {shown.split(" answer")[0] for shown, _ in lines_of(held_out)}
    assert shown <= {example["inputs"] for example in kept}


def test_they_are_dropped_before_the_example_is_cut(task):
    for count, length, kept in ((2, 64, 2), (2, 36, 1), (2, 20, 0), (1, 6, 0)):
        changes = {"demonstrations": count, "input_length": length, "max_examples": 9}
        text = data(task, **changes).read().text
        (tokens,) = text.rows(WORDS)
        shown = text.shown.texts(tokens.name, tokens.examples)
        assert tokens.dropped_demonstrations == 9 * (count - kept)
        for row, before, example in zip(tokens.inputs, shown, tokens.examples, strict=True):
            own = "".join([*before[count - kept :], example["inputs"]])
            assert row.tolist() == [*WORDS.encode(own), 1][: length - 1] + [1] * (length == 6)
            assert len(row) <= length
        assert tokens.inputs.lengths.tolist() == list(map(len, tokens.inputs))


def test_packed_rows_hold_whole_demonstrations(task):
    layout = PromptLayout(encoder=2)
    batches = data(task).open(WORDS, layout, seed=0)
    wanted = {tuple([*WORDS.encode(line), 1]) for line in asked(data(task).read())}
    batch = batches.batch(0)
    found = []
    for tokens, segments, slots in zip(
        batch["encoder_input_tokens"],
        batch["encoder_segment_ids"],
        batch["encoder_prompt_slots"],
        strict=True,
    ):
        for segment in range(1, segments.max() + 1):
            found.append(tuple(tokens[(segments == segment) & (slots == 0)].tolist()))
    assert len(found) > 2 and set(found) <= wanted
    assert batches.describe()["dropped_demonstrations"] == 0
    halves = [batches.batch(3, slice(n, n + 1))["encoder_input_tokens"] for n in (0, 1)]
    assert np.array_equal(np.concatenate(halves), batches.batch(3)["encoder_input_tokens"])


def test_tokens_of_another_number_are_never_taken(task, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(token_cache, "LEAST", 1)
    made = {}
    for _ in range(2):
        for changes in ({"demonstrations": 0}, {}, {"demonstration_seed": 1}):
            read = data(task, **changes).read()
            (tokens,) = read.text.rows(WORDS)
            rows = [row.tolist() for row in tokens.inputs]
            assert rows == [[*WORDS.encode(x), 1] for x in asked(read)]
            assert made.setdefault(str(changes), rows) == rows
    assert len({str(rows) for rows in made.values()}) == 3


def test_a_task_with_too_few_is_named(task):
    with pytest.raises(UserError, match=r"12 demonstrations .*: task .* has 11 training"):
        data(task, demonstrations=12).read().text.rows(WORDS)
    twice = [{"inputs": "x", "targets": "a"}] * 3
    with pytest.raises(UserError, match=r"task 't' has 0 training examples with another input"):
        Demonstrations(1, 0, {"t": twice}).numbers("t", twice)
    with pytest.raises(UserError, match=r"Data.demonstrations = -1: give 0 or more"):
        data(task, demonstrations=-1)


@pytest.mark.slow
def test_a_run_and_eval_show_the_same(tiny, task, tmp_path, capsys):
    """The score and the answers of a run's own evaluation, again by `eval` without an option."""
    argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}/D"]
    gin = (
        f"TASK='{task}'",
        "INPUT_LENGTH=64",
        "TRAIN_STEPS=2",
        "EVAL_PERIOD=2",
        "Data.demonstrations=1",
        "Data.demonstration_seed=3",
    )
    assert main([*argv, *(f"--gin.{binding}" for binding in gin)]) == 0
    assert "dropped_demonstrations 0" in capsys.readouterr().err
    saved = f"{tmp_path}/D/prompt/last"
    run = load_prompt(saved).manifest["run"]
    assert (run["demonstrations"], run["demonstration_seed"]) == (1, 3)
    said = (tmp_path / "D" / "predictions" / "step_2.jsonl").read_text()
    ask = [
        "eval",
        f"--backbone=files:{tiny}/backbone",
        f"--prompt={saved}",
        f"--task={task}",
        "--split=validation",
        f"--predictions={tmp_path}/p.jsonl",
    ]
    scores = {}
    for shots in ((), ("--shots=0",), ("--shots=4",)):
        assert main([*ask, *shots]) == 0
        rows = (tmp_path / "p.jsonl").read_text().splitlines()
        scores[shots] = [json.loads(row)["score"] for row in rows]
    own = [json.loads(row)["score"] for row in said.splitlines()]
    assert scores[()] == pytest.approx(own, rel=1e-5)
    for shots in (("--shots=0",), ("--shots=4",)):
        assert scores[shots] != pytest.approx(own, rel=1e-5)
    other = [*argv, *(f"--gin.{binding}" for binding in gin[:4])]
    assert main(other) == 2
    assert main([*ask, "--mode=retrieve"]) == 2
    assert "compares inputs alone" in capsys.readouterr().err


def test_runs_from_before_demonstrations_go_on(task):
    """Checkpoints name the data; the number of demonstrations is in it where there are some."""
    assert data("t", demonstrations=0).fact() == (
        "Data(task='t', input_length=64, target_length=4, batch_size=2, packed=True, "
        "split='train', max_examples=None, examples_per_class=None, sampled_examples=None, "
        "sample_seed=0)"
    )
    assert data("t").fact().endswith("sample_seed=0, demonstrations=1, demonstration_seed=0)")


def test_a_journal_of_other_demonstrations_is_refused(tiny, task, tmp_path, capsys):
    ask = [
        "eval",
        f"--backbone=files:{tiny}/backbone",
        f"--task={task}",
        "--split=validation",
        f"--journal={tmp_path}/j.jsonl",
        "--input_length=64",
        "--target_length=4",
    ]
    assert main(ask) == 0
    assert main([*ask, "--shots=1"]) == 2
    assert "--journal" in capsys.readouterr().err
