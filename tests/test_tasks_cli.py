import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import seqio

from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.cli import task_list as tasks_cli
from prompt_jax.errors import UserError
from prompt_jax.recipe.user_code import import_tasks_module
from prompt_jax.tasks import text

TASKS_MODULE = """
from prompt_jax.metrics_text import accuracy
from prompt_jax.tasks.text import jsonl_task

files = {{"train": "{folder}/a.jsonl", "validation": "{folder}/a.jsonl"}}
jsonl_task("{name}", files, metrics=[accuracy], choices=("good", "bad"))
"""


@pytest.fixture
def backbone() -> SimpleNamespace:
    """A backbone as far as these functions look at it."""
    return SimpleNamespace(name="bytes-only", vocabulary=Vocabulary.bytes())


@pytest.fixture
def user_module(tmp_path: Path):
    """The path of a user's module of one task, `TASK`, which is forgotten afterwards."""
    (tmp_path / "a.jsonl").write_text('{"inputs": "fine", "targets": "good"}\n' * 3)
    path = tmp_path / "my_tasks.py"
    path.write_text(TASKS_MODULE.format(folder=tmp_path, name="users_own"))
    yield str(path)
    if "users_own" in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove("users_own")
        text.CHOICES.pop("users_own")


def test_a_users_module_by_path(user_module):
    module = import_tasks_module(user_module)
    assert import_tasks_module(user_module) is module
    assert len(text.load_examples("users_own", "train")["users_own"]) == 3


def test_a_users_module_by_name(user_module, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(user_module).parent))
    import_tasks_module("my_tasks")
    assert text.get_task("users_own").splits == ("train", "validation")


def test_a_module_that_is_not_there_or_fails_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--tasks_module=no\.such: ModuleNotFoundError: No module"):
        import_tasks_module("no.such")
    with pytest.raises(UserError, match=r"--tasks_module=.*gone\.py: no such file"):
        import_tasks_module(str(tmp_path / "gone.py"))
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    for _ in range(2):  # a failed import leaves nothing behind
        with pytest.raises(UserError, match=r"broken\.py: ZeroDivisionError: division by zero"):
            import_tasks_module(str(broken))


def test_list_describes_every_task(monkeypatch):
    monkeypatch.delenv("PROMPT_JAX_DATA_DIR", raising=False)
    listed = {entry["name"]: entry for entry in tasks_cli.list_tasks()}
    assert list(listed) == sorted(listed)
    assert listed["super_glue_cb"] == {
        "name": "super_glue_cb",
        "source": "superglue/CB (official files) or TFDS super_glue/cb:1.0.2",
        "licence": "research use",
        "version": "SuperGLUE v2, TFDS 1.0.2",
        "splits": ["train", "validation", "test"],
        "rows": {"train": 250, "validation": 56, "test": 250},
        "present": [],
        "metrics": ["mean_class_f1", "accuracy"],
        "choices": ["entailment", "contradiction", "neutral"],
    }
    sets = ("cb", "copa", "rte", "wic", "boolq")
    names = {f"super_glue_{name}" for name in sets} | {"glue_sst2"}
    assert names | {f"taskless_{name}" for name in names} <= set(listed)
    assert "MIT" in listed["vader_polarity"]["source"]
    json.dumps(list(listed.values()))


def test_list_describes_mixtures():
    text.import_bundled()
    seqio.MixtureRegistry.add("words", [("vader_polarity", 1.0), ("cldr_kind", 3.0)])
    try:
        (entry,) = [entry for entry in tasks_cli.list_tasks() if entry["name"] == "words"]
    finally:
        seqio.MixtureRegistry.remove("words")
    assert entry["source"] == "mixture of cldr_kind x 3, vader_polarity x 1"
    assert entry["splits"] == entry["present"] == ["train", "validation", "test"]
    assert entry["licence"] == "Unicode licence, BSD; MIT"


def test_show_renders_text_and_pieces(backbone):
    plain = tasks_cli.show_task("vader_polarity", "train", 2, None)
    assert [set(shown) for shown in plain] == [{"task", "inputs", "targets"}] * 2
    shown = tasks_cli.show_task("vader_polarity", "train", 2, backbone)
    assert [{key: s[key] for key in plain[0]} for s in shown] == plain
    word = shown[0]["inputs"]
    assert shown[0]["inputs_pieces"] == [*word, "</s>"]
    assert shown[0]["inputs_length"] == len(word) + 1
    assert shown[0]["targets_length"] == len(shown[0]["targets"]) + 1


def test_show_needs_a_vocabulary():
    arrays_only = SimpleNamespace(name="t5x:DIR", vocabulary=None)
    with pytest.raises(UserError, match="backbone 't5x:DIR': has no vocabulary"):
        tasks_cli.show_task("vader_polarity", "train", 1, arrays_only)


@pytest.mark.slow
def test_the_list_says_nothing_beside_it():
    """TensorFlow's own lines of its start among it."""
    program = [sys.executable, "-m", "prompt_jax", "tasks", "list"]
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, env=env)
    assert (done.returncode, done.stderr) == (0, "")
