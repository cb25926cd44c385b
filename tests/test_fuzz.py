"""Damaged inputs: whatever becomes of a file, the outcome is a result or one line that names it.

`damage.py` draws the damage. As many examples as by default take about ten minutes on two idle
cores.
"""

import contextlib
import gzip
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from damage import damaged_bytes, damaged_safetensors, damaged_text, fuzz, seeds
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from prompt_jax.backbone.load import load_backbone
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.export import npy, peft
from prompt_jax.hosts import meet
from prompt_jax.prompt.artefact import load_prompt, save_prompt
from prompt_jax.run import identity
from prompt_jax.run.log import read_metrics

pytestmark = pytest.mark.slow


def outcome(call: Callable[[], object], names: tuple[str, ...]) -> None:
    """`call` returns, or raises a UserError of one line with one of the names in it."""
    try:
        call()
    except UserError as error:
        line = str(error)
        assert "\n" not in line and any(name in line for name in names), line


def said_by(argv: list[str], names: tuple[str, ...]) -> None:
    """The command succeeds, or says one line that names the file and exits with 2."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = main(argv)
    lines = [line for line in err.getvalue().splitlines() if line]
    assert code in (0, 2), (code, lines)
    assert code == 0 or any(name in lines[-1] for name in names) or not lines, lines
    assert not any("Traceback" in line or "--debug" in line for line in lines), lines


ROWS = "".join(
    json.dumps({"inputs": f"row {n} of a file", "targets": ("good", "bad")[n % 2], "id": n}) + "\n"
    for n in range(6)
)
TABLE = "inputs\ttargets\n" + "".join(f'row {n}\t"{"ab"[n % 2]}"\n' for n in range(6))


LIST = json.dumps([json.loads(row) for row in ROWS.splitlines()])


def parquet_rows() -> bytes:
    """The rows as Parquet."""
    rows = [json.loads(row) for row in ROWS.splitlines()]
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


CONTENTS = {
    "t.train.jsonl": ROWS.encode(),
    "t.tsv": TABLE.encode(),
    "t.csv": TABLE.replace("\t", ",").encode(),
    "t.json": LIST.encode(),
    "t.jsonl.gz": gzip.compress(ROWS.encode(), mtime=0),
    "t.parquet": parquet_rows(),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_rows_of_users(tmp_path, name):
    file = tmp_path / name

    @fuzz
    @seeds
    def run(seed):
        file.write_bytes(damaged_text(CONTENTS[name], random.Random(seed)))
        said_by(["tasks", "check", str(file)], (name,))

    run()


WORDS = "1\tI{}\ti\tPRON\t_\t_\t2\tnsubj\t_\t_\n2\tsee\tsee\tVERB\t_\t_\t0\troot\t_\t_\n\n"
TREE = "".join(f"# text = a tree\n{WORDS.format(n)}" for n in range(4))
SQUAD = json.dumps(
    {
        "version": "1.1",
        "data": [
            {
                "title": "t",
                "paragraphs": [
                    {
                        "context": "The fox is red.",
                        "qas": [
                            {
                                "id": "q1",
                                "question": "What is red?",
                                "answers": [{"text": "The fox", "answer_start": 0}],
                            }
                        ],
                    }
                ],
            }
        ],
    }
)


@pytest.mark.parametrize(
    "task, path, text",
    [
        ("xtreme_udpos_de", "ud-treebanks-v2.5/UD_German-GSD/de_gsd-ud-test.conllu", TREE),
        ("xtreme_xquad_de", "xtreme/xquad/xquad.de.json", SQUAD),
        (
            "xtreme_pawsx_de",
            "xtreme/pawsx/x-final/de/test_2k.tsv",
            "id\tsentence1\tsentence2\tlabel\n1\ta b\ta c\t1\n2\td\te\t0\n",
        ),
    ],
)
def test_files_of_benchmarks(tmp_path, task, path, text):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    argv = ["tasks", "show", task, "--split=test", f"--data_dir={tmp_path}"]
    file.write_text(text)
    assert main(argv) == 0

    @fuzz
    @seeds
    def run(seed):
        file.write_bytes(damaged_text(text.encode(), random.Random(seed)))
        said_by(argv, (file.name, task))

    run()


SPECIAL = {"eos_token": "</s>", "pad_token": {"content": "<pad>"}, "bos_token": None}
ADDED = {"extra_special_tokens": ["<extra_id_0>"], "added_tokens_decoder": {"0": {"content": "a"}}}
BESIDE = {
    "config.json": None,
    "model.safetensors": None,
    "generation_config.json": {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0},
    "tokenizer_config.json": {"tokenizer_class": "T5Tokenizer", **SPECIAL, **ADDED},
    "special_tokens_map.json": SPECIAL,
}


@pytest.mark.parametrize("name", BESIDE)
def test_folders_of_transformers(shared, tmp_path, name):
    folder = copied(shared / "golden" / "hf" / "t5_v11", tmp_path)
    file = folder / name
    if BESIDE[name] is not None:
        file.write_text(json.dumps(BESIDE[name]))
    damage = damaged_safetensors if name.endswith(".safetensors") else damaged_text
    check_backbone(file, damage, f"hf:{folder}", ("config.json", name, str(folder)))


def test_indices_of_t5x(shared, tmp_path):
    folder = copied(shared / "golden" / "t5x" / "v11_t5x" / "checkpoint_1000", tmp_path)
    name = f"t5x:{folder}?family=t5_1_1"
    check_backbone(folder / "checkpoint", damaged_bytes, name, (str(folder),))


def check_backbone(file: Path, damage, name: str, names: tuple[str, ...]) -> None:
    whole = file.read_bytes()
    load_backbone(name, "float32", vocabulary="bytes" if "vocab" in name else None)

    @fuzz
    @seeds
    def run(seed):
        file.write_bytes(damage(whole, random.Random(seed)))
        outcome(lambda: load_backbone(name, "float32"), names)

    run()


@pytest.mark.parametrize("kind", ["lora", "ia3", "prefix_tuning", "prompt_tuning"])
@pytest.mark.parametrize("name", [peft.CONFIG, peft.WEIGHTS])
def test_adapters_of_peft(shared, tmp_path, kind, name):
    folder = copied(shared / "golden" / "peft" / f"v11_{kind}", tmp_path)
    backbone = load_backbone(f"hf:{shared}/golden/hf/t5_v11", "float32")
    whole = (folder / name).read_bytes()
    damage = damaged_safetensors if name == peft.WEIGHTS else damaged_text

    def read():
        found = peft.read(str(folder))
        return peft.in_layers(found, backbone) if "peft" in found.manifest else found

    @fuzz
    @seeds
    def run(seed):
        (folder / name).write_bytes(damage(whole, random.Random(seed)))
        outcome(read, (str(folder),))

    run()


@pytest.mark.parametrize("name", ["manifest.json", "prompt.safetensors"])
def test_artefacts(tmp_path, name):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    facts = dict.fromkeys(("tokenizer", "task", "metric", "seed", "step"))
    seen = {"placement": "prefix", "visibility": {"input": True, "prompt": "all"}}
    named = {"backbone": {"name": "nano", "digest": "0" * 64}}
    manifest = {"method": "SoftPrompt", "settings": {}, **seen, **named, **facts}
    save_prompt(tmp_path / "p", {"encoder": rows}, manifest)
    file = tmp_path / "p" / name
    whole = file.read_bytes()
    damage = damaged_safetensors if name.endswith(".safetensors") else damaged_text

    @fuzz
    @seeds
    def run(seed):
        file.write_bytes(damage(whole, random.Random(seed)))
        outcome(lambda: load_prompt(tmp_path / "p").bundle(), (str(tmp_path),))

    run()


def test_prompts_of_numpy(tmp_path):
    file = tmp_path / "p.npy"
    np.save(file, np.arange(12, dtype=np.float32).reshape(3, 4))
    whole = file.read_bytes()

    @fuzz
    @seeds
    def run(seed):
        file.write_bytes(damaged_bytes(whole, random.Random(seed)))
        outcome(lambda: npy.read(str(file)).array, ("p.npy",))

    run()


def test_identities_of_runs(tmp_path):
    now = {
        "settings": {"Data.task": "t", "Train.seed": 0},
        "free": {"Train.steps": 4},
        "contents": {"the training data": "0" * 64},
        "bound": ["Train.steps"],
    }

    @fuzz
    @seeds
    def run(seed):
        text = damaged_text(json.dumps(now).encode(), random.Random(seed))
        (tmp_path / identity.FILE).write_bytes(text)
        outcome(lambda: identity.compare(epath.Path(tmp_path), now), (str(tmp_path),))

    run()


def test_records_of_a_run(tmp_path):
    text = "".join(
        json.dumps({"step": n, "kind": "train", "loss": 1.5 / (n + 1)}) + "\n" for n in range(5)
    )

    @fuzz
    @seeds
    def run(seed):
        (tmp_path / "metrics.jsonl").write_bytes(damaged_text(text.encode(), random.Random(seed)))
        outcome(lambda: [r["step"] + 1 for r in read_metrics(tmp_path)], ("metrics.jsonl",))

    run()


VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_MCA_orte_hnp_uri",
)
VALUES = ("", "0", "1", "2", "-1", "x", "4(x2)", "node[01-02]", "node01", "1e3", "\x7f", " 3 ")


def test_variables_of_launchers(monkeypatch):
    @fuzz
    @given(st.dictionaries(st.sampled_from(VARIABLES), st.sampled_from(VALUES)))
    def run(variables):
        with monkeypatch.context() as patch:
            for name in VARIABLES:
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            outcome(lambda: meet.find(None, None, None), (*VARIABLES, "--process"))

    run()


def copied(source: Path, folder: Path) -> Path:
    """A copy that may be written to."""
    target = folder / source.name
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755)
    return target
