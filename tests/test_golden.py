"""Checkpoints of T5X and transformers by command: their logits, and what is said of damaged ones.

See test_readers.py for the same five faults in T5X's msgpack layout and in transformers' folder.
"""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorstore

from prompt_jax.cli.main import main

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "golden.py"


def test_every_golden_checkpoint_gives_its_logits(shared, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["golden.py", f"--golden={shared}/golden", "--json"])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(BENCHMARK), run_name="__main__")
    assert done.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["backbone"].partition(":")[0] for row in rows] == ["t5x"] * 3 + ["hf"] * 2
    assert all(0 < row["worst"] < 1e-5 for row in rows)
    digests = [row["digest"] for row in rows]
    assert digests == [digests[i] for i in (0, 1, 1, 0, 1)] and digests[0] != digests[1]


# The Orbax layouts, T5X's and ours, in an OCDBT database

NAME = "decoder.layers_1.mlp.wo.kernel"
SAYS = {
    "renamed": "'{0}s' is unknown, no T5 has it",
    "missing": "'{0}' is missing; copy the checkpoint again",
    "shape": "'{0}' has shape [64, 64], the model needs [128, 64]",
    "truncated": "'{0}' is incomplete; copy the checkpoint again",
    "dtype": "'{0}' holds float16 and the others float32; save all in one precision",
}


@pytest.fixture(scope="module")
def layouts(shared, tmp_path_factory) -> dict[str, tuple[Path, str, str]]:
    """Per kind of backbone: a whole folder, where its database is, and the name of an array."""
    theirs = shared / "golden" / "t5x" / "v11_orbax" / "checkpoint_1000"
    ours = tmp_path_factory.mktemp("ours") / "o"
    assert main(["convert", f"--backbone=t5x:{theirs}", "--format=orbax", f"--output={ours}"]) == 0
    return {"t5x": (theirs, "state", f"target.{NAME}"), "orbax": (ours, "weights", NAME)}


@pytest.mark.parametrize("kind", ["t5x", "orbax"])
@pytest.mark.parametrize("case", SAYS)
def test_five_faults_of_the_orbax_layouts(layouts, tmp_path, capsys, kind, case):
    whole, item, name = layouts[kind]
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)  # the copied files may be read-only
    damage(folder / item, name, case)
    capsys.readouterr()
    said = refused(f"{kind}:{folder}", tmp_path, capsys)
    assert SAYS[case].format(name) in said and str(folder) in said


def damage(item: Path, name: str, case: str) -> None:
    database = {"driver": "ocdbt", "base": f"file://{item}/"}
    files = tensorstore.KvStore.open(database).result()
    keys = [key for key in files.list().result() if key.startswith(f"{name}/".encode())]
    chunks = [key for key in keys if not key.endswith(b".zarray")]
    assert len(keys) == len(chunks) + 1 > 1
    if case == "truncated":
        data = files.read(chunks[0]).result().value
        files.write(chunks[0], data[: len(data) // 2]).result()
        return
    for key in keys:
        if case == "renamed":
            moved = key.replace(name.encode(), f"{name}s".encode())
            files.write(moved, files.read(key).result().value).result()
        files.write(key, None).result()
    if case in ("shape", "dtype"):
        dtype = "float16" if case == "dtype" else "float32"
        array = np.ones((64 if case == "shape" else 128, 64), dtype)
        spec = {"driver": "zarr", "kvstore": {**database, "path": f"{name}/"}}
        created = tensorstore.open(spec, create=True, dtype=dtype, shape=array.shape).result()
        created.write(array).result()


def refused(backbone: str, tmp_path: Path, capsys) -> str:
    """What `convert` says: one line and exit code 2, and nothing is written."""
    output = tmp_path / "out"
    assert main(["convert", f"--backbone={backbone}", "--format=files", f"--output={output}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("prompt-jax: error: ") and said.count("\n") == 1
    assert not output.exists()
    return said
