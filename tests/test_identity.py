"""A model_dir belongs to one run: what decides its numbers may not change under it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.recipe import config
from prompt_jax.run.identity import identity
from prompt_jax.run.log import read_metrics
from prompt_jax.tasks.text import load_examples

BEGIN = ["--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2", "--gin.Evaluation.max_examples=4"]


@pytest.fixture(scope="module")
def begun(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two steps, and its own copy of the task's files."""
    folder = tmp_path_factory.mktemp("begun")
    for split in ("train", "validation"):
        shutil.copy(tiny / f"toy.{split}.jsonl", folder)
    assert train(tiny, folder) == 0
    return folder


def train(tiny: Path, folder: Path, *bindings: str, flags: tuple[str, ...] = ()) -> int:
    task = f"--gin.TASK='{folder}/toy.train.jsonl'"
    given = [f"--gin_file={tiny}/run.gin", f"--model_dir={folder}/run", task, *BEGIN]
    return main(["train", *given, *flags, *(f"--gin.{binding}" for binding in bindings)])


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    shutil.copytree(begun, tmp_path / "copy")
    return tmp_path / "copy"


CHANGED = {
    "LEARNING_RATE=0.01": "Schedule.learning_rate = 0.3, this one has 0.01",
    "SEED=7": "Train.seed = 0, this one has 7",
    "Evaluation.split='train'": "Evaluation.split = 'validation', this one has 'train'",
    "Evaluation.max_examples=5": "Evaluation.max_examples = 4, this one has 5",
    "Data.max_examples=50": "Data.max_examples = None, this one has 50",
    "PROMPT_LENGTH=5": "SoftPrompt.length = 4, this one has 5",
    "Backbone.dropout_rate=0.2": "Backbone.dropout_rate = 0.1, this one has 0.2",
    "Train.terms=[@FrozenKL()]": "Train.terms = [], this one has ['FrozenKL']",
}


@pytest.mark.parametrize("gone", [False, True], ids=["", "checkpoints gone"])
@pytest.mark.parametrize("binding", CHANGED)
def test_another_setting_is_refused(tiny, folder, capsys, binding: str, gone: bool) -> None:
    if gone:
        shutil.rmtree(folder / "run" / "checkpoints")
    before = (folder / "run" / "metrics.jsonl").read_bytes()
    assert train(tiny, folder, binding) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert CHANGED[binding] in line and f"{folder}/run" in line and "another --model_dir" in line
    assert (folder / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("split", "what"), [("train", "the training data"), ("validation", "the evaluation's data")]
)
def test_an_edited_data_file_is_refused(tiny, folder, capsys, split: str, what: str) -> None:
    path = folder / f"toy.{split}.jsonl"
    path.write_text(path.read_text().replace('"targets": "a"', '"targets": "c"'))
    assert train(tiny, folder, "TRAIN_STEPS=4") == 2
    assert f"holds a run with {what} = " in capsys.readouterr().err


def test_an_edited_module_is_refused(tiny, folder, capsys) -> None:
    """Its metrics decide what is best; its comments do not."""
    shutil.rmtree(folder / "run")
    module = folder / "mine.py"
    flag = f"--tasks_module={module}"
    for text, steps, code in (
        ("RATE = 1\n", 2, 0),
        ("# a note\n\nRATE = 1\n", 3, 0),
        ("RATE = 2\n", 4, 2),
    ):
        module.write_text(text)
        for name in [name for name in sys.modules if name.startswith("prompt_jax_user_")]:
            del sys.modules[name]  # as in another process
        assert train(tiny, folder, f"TRAIN_STEPS={steps}", flags=(flag,)) == code
    assert "holds a run with the module mine.py = " in capsys.readouterr().err


def test_another_prompt_at_the_same_path_is_refused(tiny, folder, capsys) -> None:
    """`Attempt.sources` are read at every start, and no checkpoint holds them."""
    shutil.rmtree(folder / "run")
    path = folder / "source.npy"
    bindings = ["Train.method=@Attempt()", f"Attempt.sources=('{path}',)", "Attempt.length=4"]
    np.save(path, np.ones((4, 16), np.float32))
    assert train(tiny, folder, *bindings) == 0
    assert train(tiny, folder, *bindings, "TRAIN_STEPS=3") == 0
    np.save(path, np.zeros((4, 16), np.float32))
    assert train(tiny, folder, *bindings, "TRAIN_STEPS=4") == 2
    assert f"holds a run with the prompt {path} = " in capsys.readouterr().err


def test_what_may_change_is_told_line_by_line(tiny, folder, capsys) -> None:
    free = ("TRAIN_STEPS=4", "EVAL_PERIOD=1", "Train.patience=9", "Train.log_period=1")
    config = (folder / "run" / "config.gin").read_text()
    assert train(tiny, folder, *free) == 0
    said = capsys.readouterr().err
    for change in ("Train.steps: 2 -> 4", "Evaluation.period: 2 -> 1", "Train.patience: None -> 9"):
        assert f"changed since the run began: {change}\n" in said
    assert (folder / "run" / "config.2.gin").read_text() == config
    assert read_metrics(folder / "run")[-1]["step"] == 4


@pytest.mark.slow
def test_a_schedule_that_ends_with_the_steps_may_end_later(tiny, folder, capsys) -> None:
    ends = "Schedule.total_steps=%TRAIN_STEPS"
    shutil.rmtree(folder / "run")
    assert train(tiny, folder, ends) == 0
    assert train(tiny, folder, ends, "TRAIN_STEPS=3") == 0
    assert train(tiny, folder, "Schedule.total_steps=9", "TRAIN_STEPS=4") == 2
    assert "Schedule.total_steps = 3, this one has 9" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [(), ("--seeds=0,1",)])
def test_an_empty_model_dir_is_refused(tiny, tmp_path, monkeypatch, capsys, flags) -> None:
    """As an unset variable of the shell gives."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"--gin_file={tiny}/run.gin", "--model_dir=", *flags]) == 2
    assert "--model_dir=: is empty; give the folder of the run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def rows(path: Path, count: int, start: str) -> None:
    path.write_text(
        "".join(json.dumps({"inputs": f"{start} {i}", "targets": "a"}) + "\n" for i in range(count))
    )


def test_train_jsonl_goes_with_validation_jsonl(tmp_path) -> None:
    for name, count in (("train", 30), ("validation", 7)):
        rows(tmp_path / f"{name}.jsonl", count, name)
    task = str(tmp_path / "train.jsonl")
    sizes = [len(*load_examples(task, split).values()) for split in ("train", "validation")]
    assert sizes == [30, 7]


@pytest.mark.parametrize("name", ["t.validation", "validation", "t.test"])
def test_a_file_of_a_split_is_all_of_that_split(tmp_path, name: str) -> None:
    split = name.rpartition(".")[2]
    rows(tmp_path / f"{name}.jsonl", 20, "say")
    rows(tmp_path / "t.train.jsonl", 30, "train")
    assert len(*load_examples(str(tmp_path / f"{name}.jsonl"), split).values()) == 20
    with pytest.raises(UserError, match="has no split 'train'"):
        load_examples(str(tmp_path / f"{name}.jsonl"), "train")


def test_a_moved_data_file_is_the_same_data(tiny, folder) -> None:
    """`folder` is a copy, so that every path in the recipe is another one already."""
    assert train(tiny, folder, "TRAIN_STEPS=3") == 0
    identity = json.loads((folder / "run" / "identity.json").read_text())
    assert identity["settings"]["Data.task"] == "toy.train.jsonl"


def test_two_schedules_are_told_apart(tiny) -> None:
    """The optimizer's and that of a term's weight."""
    term = ["Train.terms=[@FrozenKL()]", "FrozenKL.weight=@k/Schedule()"]
    term += ["k/Schedule.learning_rate=1.0"]
    settings = []
    for rate in (0.5, 0.25):
        run = config.load("Train", [f"{tiny}/run.gin"], [*term, f"LEARNING_RATE={rate}"]).root
        settings.append(identity(run, {})["settings"])
    assert [one["Schedule.learning_rate"] for one in settings] == [0.5, 0.25]
    assert [one["Schedule.learning_rate (2)"] for one in settings] == [1.0, 1.0]


@pytest.mark.slow
def test_a_newer_setting_refuses_no_older_run_unless_it_is_bound(tiny, folder, capsys) -> None:
    """As if both settings had come after the run."""
    path = folder / "run" / "identity.json"
    identity = json.loads(path.read_text())
    for name in ("Backbone.dropout_rate", "Loss.z_loss"):
        del identity["settings"][name]
    path.write_text(json.dumps(identity))
    assert train(tiny, folder, "Backbone.dropout_rate=0.2") == 2
    told = "holds a run with Backbone.dropout_rate = its default, this one has 0.2"
    assert told in capsys.readouterr().err
    assert train(tiny, folder, "TRAIN_STEPS=3") == 0


def test_an_older_folder_without_checkpoints_is_refused(tiny, folder, capsys) -> None:
    (folder / "run" / "identity.json").unlink()
    shutil.rmtree(folder / "run" / "checkpoints")
    assert train(tiny, folder) == 2
    assert "holds records of a run, but no checkpoints that say of which" in capsys.readouterr().err


def test_a_damaged_identity_is_one_line(tiny, folder, capsys) -> None:
    (folder / "run" / "identity.json").write_text("{")
    assert train(tiny, folder) == 2
    assert "identity.json: " in capsys.readouterr().err


def test_a_best_is_of_the_same_evaluation(tmp_path: Path) -> None:
    from etils import epath

    from prompt_jax.run.log import MetricsLog

    log = MetricsLog(epath.Path(tmp_path), 9, {"task": "a", "split": "validation"})
    for step, (split, value) in enumerate([("test", 90.0), ("validation", 50.0)]):
        log.write({"step": step, "kind": "eval", "task": "a", "split": split, "accuracy": value})
    assert log.best("accuracy", "max") == (50.0, 1) and log.beats(60.0, "accuracy", "max")
    log.close()
