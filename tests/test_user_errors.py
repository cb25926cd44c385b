"""The user's mistakes, through the command line: one line, the right exit code, nothing broken."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from prompt_jax.cli.main import main


@pytest.fixture
def fails(capsys, tiny, tmp_path):
    """`(exit code, the line)` of `train` on the tiny recipe with more arguments."""

    def run(*arguments: str, verb: str = "train", model_dir: Path = tmp_path / "model"):
        recipe = [f"--gin_file={tiny}/run.gin", f"--model_dir={model_dir}"]
        code = main([verb, *(recipe if verb == "train" else []), *arguments])
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("prompt-jax: error: ")]
        assert len(lines) == 1
        assert "Traceback" not in error
        if "trainable parameters" not in error:  # what a run says once it has begun
            assert error.count("\n") == 1
        return code, lines[0].removeprefix("prompt-jax: error: ")

    return run


def nothing_is_saved(tmp_path: Path) -> bool:
    names = {"checkpoints", "prompt", "metrics.jsonl", "config.gin"}
    return not any((tmp_path / "model" / name).exists() for name in names)


@pytest.mark.parametrize(
    ("binding", "parts"),
    [
        ("TRIAN_STEPS=3", ["--gin.TRIAN_STEPS=3", "did you mean TRAIN_STEPS?"]),
        ("Data.batchsize=3", ["Data has no parameter batchsize", "did you mean batch_size?"]),
        ("TRAIN_STEPS='ten'", ["Train.steps = 'ten': expected int"]),
        ("BACKBONE='files:/no/such'", ["/no/such", "needs one"]),
        ("BACKBONE='nanoo'", ["backbone 'nanoo': unknown", "the known forms are"]),
        ("TASK='vader_polarty'", ["task 'vader_polarty': no such task", "did you mean"]),
        ("Data.split='dev'", ["no split 'dev'", "it has train, validation"]),
        ("Evaluation.split='dev'", ["no split 'dev'", "it has train, validation"]),
        ("BATCH_SIZE=12", ["BATCH_SIZE = 12", "take a multiple of 8"]),
        ("BATCH_SIZE=0", ["Data.batch_size = 0: give at least 1"]),
        ("Train.accumulate=2", ["BATCH_SIZE = 8", "take a multiple of 16"]),
        ("VOCABULARY='no.model'", ["vocabulary 'no.model': cannot be read", "give a"]),
        ("Backbone.dtype='float16'", ["float16", "use bfloat16 or float32"]),
    ],
)
def test_a_wrong_recipe(fails, tmp_path, binding, parts):
    code, line = fails(f"--gin.{binding}")
    assert code == 2
    for part in parts:
        assert part in line
    assert not (tmp_path / "model").exists()


def test_a_refused_run_leaves_what_was_there(fails, tmp_path):
    kept = tmp_path / "a" / "kept"
    kept.parent.mkdir()
    kept.write_text("mine")
    for place in (tmp_path / "a", tmp_path / "a" / "b" / "c"):
        assert fails("--gin.BACKBONE='nanoo'", model_dir=place)[0] == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "a", "kept"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["bad.train.jsonl: no rows", "write one JSON object"]),
        ('{"inputs": "a", "targets": "b"}\nnot json\n', ["bad.train.jsonl:2: not JSON"]),
        ('{"inputs": "a"}\n', ["bad.train.jsonl:1: no key 'targets'"]),
        ('{"inputs": "a", "targets": 3}\n', ["bad.train.jsonl:1: 'targets' is 3"]),
        (None, ["no such file of rows", "bad.train.jsonl"]),
    ],
)
def test_wrong_data(fails, tmp_path, text, parts):
    file = tmp_path / "bad.train.jsonl"
    if text is not None:
        file.write_text(text)
    code, line = fails(f"--gin.TASK='{file}'")
    assert code == 2
    for part in parts:
        assert part in line
    assert nothing_is_saved(tmp_path)


def test_data_are_checked_before_any_weight_is_read(fails, tmp_path, monkeypatch):
    settings = importlib.import_module("prompt_jax.backbone.settings")
    monkeypatch.setattr(settings, "load_backbone", None)  # calling it would fail otherwise
    code, line = fails("--gin.TASK='nowhere'")
    assert code == 2
    assert "task 'nowhere': no such task" in line
    code, line = fails("--gin.Evaluation.task='nowhere'")
    assert code == 2
    assert "task 'nowhere': no such task" in line


def test_a_folder_that_cannot_be_written(fails, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    code, line = fails(model_dir=tmp_path / "file" / "model")
    assert code == 2
    assert "model_dir" in line
    assert "cannot be written" in line
    assert "give --model_dir a folder of your own" in line


def test_a_metric_that_the_task_does_not_have(fails, tmp_path):
    code, line = fails("--gin.BEST_METRIC=('f1', 'max')", "--gin.Evaluation.max_examples=8")
    assert code == 2
    assert "BEST_METRIC = 'f1': the evaluation does not give it; it gives: accuracy" in line
    assert not (tmp_path / "model" / "prompt").exists()


@pytest.mark.slow
def test_a_loss_that_is_none(fails, tiny, tmp_path):
    """Nothing of it is saved, and the remedy works: a lower rate, in a folder of its own."""
    arguments = ["--gin.TRAIN_STEPS=3", "--gin.EVAL_PERIOD=100", "--gin.Train.log_period=1"]
    arguments.append("--gin.Evaluation.max_examples=8")
    code, line = fails("--gin.LEARNING_RATE=1e38", *arguments)
    assert code == 1
    assert "lower LEARNING_RATE" in line
    model_dir = tmp_path / "model"
    assert not (model_dir / "prompt" / "last").exists()
    assert not list((model_dir / "checkpoints").iterdir())
    recipe = ["--gin.LEARNING_RATE=0.1", *arguments]
    assert fails(*recipe)[0] == 2, "the folder belongs to the run with the other rate"
    model_dir = tmp_path / "other"
    assert main(["train", f"--gin_file={tiny}/run.gin", f"--model_dir={model_dir}", *recipe]) == 0
    told = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in told if r["kind"] == "train"] == [1, 2, 3]


def test_a_prompt_of_another_width(fails, tiny, tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((4, 24), np.float32))
    task = [f"--task={tiny}/toy.train.jsonl", "--split=validation"]
    given = [f"--prompt={tmp_path}/wide.npy", f"--backbone=files:{tiny}/backbone", *task]
    code, line = fails(*given, verb="eval")
    assert code == 2
    assert "24 wide and backbone" in line
    assert "take the backbone that it was tuned for" in line
    path = f"--gin.FileInit.path='{tmp_path}/wide.npy'"
    code, line = fails("--gin.SoftPrompt.init=@FileInit()", path)
    assert code == 2
    assert "holds [4, 24], the run needs [4, 16]" in line
    assert nothing_is_saved(tmp_path)


def test_a_missing_prompt(fails, tiny):
    task = [f"--task={tiny}/toy.train.jsonl", "--split=validation"]
    code, line = fails("--prompt=/no/such", f"--backbone=files:{tiny}/backbone", *task, verb="eval")
    assert code == 2
    assert "prompt '/no/such': does not exist" in line
