"""Tasks that need no SeqIO: files of rows and synthetic rows, the same as SeqIO gives them."""

import json
import os
import subprocess
import sys

import pytest

from prompt_jax import synthetic
from prompt_jax.cli import compiled
from prompt_jax.data import named
from prompt_jax.errors import UserError


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "toy.jsonl"
    rows = [{"inputs": f"say ü {i}", "targets": "ab"[i % 2], "n": i, "x": i / 2} for i in range(9)]
    path.write_text("".join(json.dumps(row | {"t": row["n"] > 3}) + "\n" for row in rows))
    return str(path)


def test_rows_names_and_labels_are_those_that_seqio_gives(file):
    from prompt_jax.tasks import text

    for split in ("train", "validation"):
        wanted = text.load_examples(file, split)
        found = {name: list(rows) for name, rows in named.stream_examples(file, split).items()}
        assert found == wanted
        (rows,), (others,) = found.values(), wanted.values()
        assert [list(map(type, r.values())) for r in rows] == [
            list(map(type, r.values())) for r in others
        ]
    (task,) = named.sub_tasks(file)
    assert named.choices_of(file) == text.choices_of(file) == ("a", "b")
    assert named.files_of(file) == text.files_of(file)
    assert named.registered_choices(task.name) == ("a", "b")
    with pytest.raises(UserError, match="has no split 'test'; it has train, validation"):
        named.stream_examples(file, "test")


@pytest.mark.slow
def test_a_run_over_a_file_imports_neither_tensorflow_nor_torch(tiny, tmp_path):
    argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}/run"]
    program = (
        f"import sys; from prompt_jax.cli.main import main; code = main({argv!r})\n"
        "print([n for n in ('tensorflow', 'seqio', 'torch') if n in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_synthetic_rows_are_those_of_their_name():
    name = "synthetic?inputs=5&targets=2&examples=16&labels=3"
    (rows,) = named.stream_examples(name, "train").values()
    rows = list(rows)
    assert len(rows) == 16 and all(len(row["inputs"].split()) == 5 for row in rows)
    assert {row["targets"] for row in rows} <= set(named.choices_of(name)) == {"the", "of", "and"}
    (held_out,) = named.stream_examples(name, "validation").values()
    assert len(list(held_out)) == 2
    assert list(synthetic.parse(name).read("train")) == rows


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("synthetic?words=3", "unknown option 'words'; give some of inputs, targets"),
        ("synthetic?inputs=0", "inputs=0; give a whole number from 1 on"),
        ("synthetic?labels=1", "labels=1; give 0, or 2 to"),
    ],
)
def test_a_wrong_name_is_one_line(name, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        named.plain(name)


def test_compiled_programs_stay_in_the_users_cache_where_nothing_else_is_said(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(compiled.VARIABLE, "elsewhere")
    compiled.use_cache()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv(compiled.VARIABLE)
    folder = tmp_path / "prompt_jax" / "compiled" / compiled.processor()
    folder.mkdir(parents=True)
    old, new = folder / "old-cache", folder / "new-cache"
    for entry in (old, new):
        entry.write_bytes(b"x")
    os.utime(old, (0, 0))
    compiled.use_cache()
    assert os.environ[compiled.VARIABLE] == str(folder)
    assert list(folder.iterdir()) == [new]
