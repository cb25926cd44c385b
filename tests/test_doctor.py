"""The doctor: a healthy recipe passes, and every check is broken by one thing that it is for.

Nothing is compiled: the whole page is shapes, files and text.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import files
from prompt_jax.cli import doctor as doctor_cli
from prompt_jax.cli.main import main
from prompt_jax.doctor import examine as doctor
from prompt_jax.fit import estimate
from prompt_jax.model import sizes, t5
from prompt_jax.model.sharding import MeshShape
from prompt_jax.objective.optim import Adafactor, Schedule
from prompt_jax.recipe import config

NAMES = list(doctor.CHECKS)


@pytest.fixture
def page(tiny, tmp_path):
    """`(lines by check)` of the tiny recipe with more bindings."""

    def look(*bindings: str, model_dir: Path = tmp_path / "model") -> dict[str, doctor.Line]:
        run = config.load("Train", [f"{tiny}/run.gin"], list(bindings)).root
        return {line.check: line for line in doctor.examine(run, str(model_dir))}

    return look


@pytest.fixture
def backbone(tiny, tmp_path) -> Path:
    """A copy of the tiny backbone that may be broken."""
    return Path(shutil.copytree(tiny / "backbone", tmp_path / "backbone"))


def write_backbone(folder: Path, **changes: int) -> str:
    """A random T5 whose shapes are the tiny one's but for `changes`; the binding that names it."""
    shapes = {"vocab_size": 264, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
    shapes |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
    config = t5.T5Config(**(shapes | changes))
    arrays = weights.arrays_of(weights.init(config, 0))
    files.write(str(folder), config, arrays, "bytes")
    return f"BACKBONE='files:{folder}'"


def failed(lines: dict[str, doctor.Line], status: str = "fail") -> list[str]:
    return [name for name, line in lines.items() if line.status == status]


def jsonl(path: Path, rows: list[tuple[str, str]]) -> str:
    for split in ("train", "validation"):
        text = "".join(json.dumps({"inputs": i, "targets": t}) + "\n" for i, t in rows)
        path.with_name(f"{path.name}.{split}.jsonl").write_text(text)
    return f"TASK='{path}.train.jsonl'"


def test_a_healthy_recipe_is_all_ok(page, tmp_path):
    lines = page()
    assert list(lines) == NAMES
    assert {line.status for line in lines.values()} == {"ok"}
    assert lines["task"].value.endswith(" 60; evaluated on 60")
    assert "2 labels, the longest 2 of 4 tokens" in lines["labels"].value
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


def test_backbone_one_array_missing(page, backbone):
    path = backbone / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    del arrays["encoder/encoder_norm/scale"]
    safetensors.numpy.save_file(arrays, path)
    lines = page(f"BACKBONE='files:{backbone}'")
    assert failed(lines) == ["backbone"]
    assert "'encoder/encoder_norm/scale' is missing" in lines["backbone"].value
    assert lines["backbone"].fix == "copy the checkpoint again"
    blocked = ["digest", "vocabulary", "labels", "truncation", "mesh", "dtype", "disk", "memory"]
    assert failed(lines, "warn") == blocked
    assert {lines[name].fix for name in blocked} <= {"first fix backbone", "first fix vocabulary"}


def test_backbone_a_value_that_is_no_number(page, backbone):
    path = backbone / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays["encoder/encoder_norm/scale"][3] = np.nan
    safetensors.numpy.save_file(arrays, path)
    lines = page(f"BACKBONE='files:{backbone}'")
    assert failed(lines) == ["backbone"]
    assert "'encoder/encoder_norm/scale' holds NaN" in lines["backbone"].value


def test_digest_of_another_run_in_the_folder(page, tmp_path):
    last = tmp_path / "model" / "prompt" / "last"
    last.mkdir(parents=True)
    begun = {"backbone": {"name": "hf:other", "digest": "b" * 64}}
    (last / "manifest.json").write_text(json.dumps(begun))
    lines = page()
    assert failed(lines) == ["digest"]
    assert "was begun with bbbbbbbbbbbb" in lines["digest"].value
    assert lines["digest"].fix == "BACKBONE = 'hf:other', or another folder"


@pytest.mark.parametrize("status, script", [("fail", "t5"), ("warn", "bytes")])
def test_vocabulary_of_another_model(page, shared, tmp_path, status, script):
    """32,100 ids for 264 embeddings fail; 259 for nano's 8,192 are suspicious."""
    if script == "t5":
        lines = page(f"VOCABULARY='{shared}/data/spm/t5.spiece.model'", "TARGET_LENGTH=9")
    else:
        lines = page(write_backbone(tmp_path / "large", vocab_size=8192))
    assert failed(lines, status) == ["vocabulary"]
    told = {"t5": "32,100 ids for 264", "bytes": "259 ids for 8,192"}
    assert told[script] in lines["vocabulary"].value


def test_vocabulary_that_is_not_there(page, tmp_path):
    lines = page(f"VOCABULARY='{tmp_path}/none.model'")
    assert failed(lines) == ["vocabulary"]
    assert "cannot be read" in lines["vocabulary"].value


def test_task_that_is_not_there(page):
    lines = page("TASK='super_glue_cd'")
    assert failed(lines) == ["task"]
    assert lines["task"].value.startswith("task 'super_glue_cd': no such task")
    assert lines["labels"].fix == lines["truncation"].fix == "first fix task"


def test_task_without_the_evaluated_split(page):
    lines = page("Evaluation.split='dev'")
    assert failed(lines) == ["task"]
    assert "has no split 'dev'" in lines["task"].value


def test_labels_that_do_not_fit(page, tmp_path):
    lines = page(jsonl(tmp_path / "long", [("x", "a"), ("y", "not entailed")]))
    assert failed(lines) == ["labels"]
    assert lines["labels"].value == "2 labels, the longest 13 of 4 tokens: 'not entailed'"
    assert lines["labels"].fix == "TARGET_LENGTH = 13"
    assert failed(lines, "warn") == []


def test_labels_of_unknown_pieces(page, shared, tmp_path):
    lines = page(
        jsonl(tmp_path / "script", [("x", "ja"), ("y", "はい")]),
        write_backbone(tmp_path / "large", vocab_size=32128),
        f"VOCABULARY='{shared}/data/spm/t5.spiece.model'",
    )
    assert failed(lines, "warn") == ["labels"] and failed(lines) == []
    assert lines["labels"].value == "'はい' has unknown pieces"


def test_truncation(page):
    lines = page("INPUT_LENGTH=6")
    assert failed(lines) == [] and failed(lines, "warn") == ["truncation"]
    assert lines["truncation"].value == "100.0 % of inputs over 6 (60 examples)"
    assert lines["truncation"].fix == "INPUT_LENGTH = 9 keeps 99 % whole"


def test_truncation_of_targets_that_are_no_labels(page, tmp_path):
    rows = [(f"x{i}", "y" * (1 + i % 2 * 8) + str(i)) for i in range(80)]
    lines = page(jsonl(tmp_path / "free", rows))
    assert failed(lines, "warn") == ["truncation"]
    assert "50.0 % of targets over 4" in lines["truncation"].value


@pytest.mark.parametrize(
    "binding, value, fix",
    [
        ("MeshShape.data=3", "does not fit 8 devices", "-1 takes what is left"),
        ("BATCH_SIZE=12", "BATCH_SIZE = 12: cannot be split over 8", "take a multiple of 8"),
    ],
)
def test_mesh(page, binding, value, fix):
    lines = page(binding, *(["Train.mesh=@MeshShape()"] if "Mesh" in binding else []))
    assert failed(lines) == ["mesh"]
    assert value in f"{lines['mesh'].value}: {lines['mesh'].fix}" and fix in lines["mesh"].fix


def test_mesh_that_does_not_divide_the_weights(page, tmp_path):
    mesh = ("Train.mesh=@MeshShape()", "MeshShape.data=1", "MeshShape.model=-1")
    lines = page(write_backbone(tmp_path / "odd", mlp_dim=36), *mesh)
    assert failed(lines) == ["mesh"]
    assert "36) is not divisible by mesh axis model = 8" in lines["mesh"].value
    assert lines["memory"].fix == "first fix mesh"
    assert failed(page(*mesh)) == []


@pytest.mark.parametrize("dtype", ["float16", "float8"])
def test_dtype_refused(page, dtype):
    lines = page(f"Backbone.dtype='{dtype}'")
    assert failed(lines) == ["dtype"]
    assert lines["dtype"].fix == "use bfloat16 or float32"


def test_dtype_stored_as_float16(page, backbone):
    path = backbone / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    safetensors.numpy.save_file(half, path)
    lines = page(f"BACKBONE='files:{backbone}'")
    assert failed(lines) == [] and failed(lines, "warn") == ["dtype"]
    assert "stored as float16" in lines["dtype"].value


def test_dtype_slow_here(page):
    assert failed(page("Backbone.dtype='bfloat16'"), "warn") == ["dtype"]


def test_disk_that_cannot_be_written(page, tmp_path):
    (tmp_path / "file").write_text("")
    lines = page(model_dir=tmp_path / "file" / "model")
    assert failed(lines) == ["disk"]
    assert "cannot be written" in lines["disk"].value
    assert lines["disk"].fix == "give --model_dir a folder of your own"


def test_disk_in_use_by_another_run(page, tmp_path):
    from prompt_jax.run.folder import open_folder

    with open_folder(str(tmp_path / "model")):
        lines = page()
    assert failed(lines) == ["disk"]
    assert "is in use by another run" in lines["disk"].value


@pytest.mark.parametrize("free, status", [(1000, "fail"), (3000, "warn"), (10**6, "ok")])
def test_disk_that_is_full(page, monkeypatch, free, status):
    """4 x 16 prompt values: 256 bytes, as many of Adafactor's, 3 checkpoints of it, 3 prompts."""
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    lines = page()
    assert lines["disk"].status == status
    assert failed(lines, "fail") + failed(lines, "warn") == ["disk"] * (status != "ok")


@pytest.mark.parametrize("share, status", [(0.01, "fail"), (1.1, "warn"), (2.0, "ok")])
def test_memory_of_a_device(page, monkeypatch, share, status):
    monkeypatch.setattr(estimate, "device_bytes", lambda device: 1 << 62)
    whole = page()["memory"].value
    assert "(an estimate)" in whole
    number, unit = whole.split()[:2]
    total = float(number) * {"MiB": 1 << 20, "GiB": 1 << 30}[unit]
    monkeypatch.setattr(estimate, "device_bytes", lambda device: int(total * share))
    lines = page()
    assert lines["memory"].status == status
    assert failed(lines, "fail") + failed(lines, "warn") == ["memory"] * (status != "ok")


def test_weights_and_optimizer_are_counted_exactly(tiny):
    """On 4 x 2 devices a kernel is cut in eight, a norm not at all; bias tables stay whole."""
    config = t5.T5Config(264, 16, 2, 8, 32, 1, 1)
    whole = estimate.weight_bytes(config, MeshShape(data=-1).build(), "float32")
    kernels = 264 * 16 * 2 + 12 * 16 * 16 + 6 * 16 * 32
    norms, biases = 7 * 16, 2 * 2 * 32
    assert whole == 4 * (kernels + norms + biases)
    cut = estimate.weight_bytes(config, MeshShape(data=1, fsdp=4, model=2).build(), "bfloat16")
    assert cut == 2 * (kernels // 8 + norms + biases)
    tx = Adafactor(schedule=Schedule(learning_rate=0.3)).build()
    assert 4 * 64 <= estimate.optimizer_bytes(tx, 64) <= 4 * 64 + 64


def test_activations_grow_as_they_should():
    config = sizes.SIZES["t5_1_1_base"]
    one = estimate.activation_bytes(config, 1, 512, 32, "tpu")
    assert estimate.activation_bytes(config, 8, 512, 32, "tpu") == 8 * one
    assert estimate.activation_bytes(config, 1, 1024, 32, "tpu") > 2 * one
    less = dataclasses.replace(config, remat="full")
    assert estimate.activation_bytes(less, 1, 512, 32, "tpu") < one / 4
    wide = dataclasses.replace(config, dtype="float32")
    assert one < estimate.activation_bytes(wide, 1, 512, 32, "tpu") < 2 * one


def command(tiny, tmp_path, *more: str) -> list[str]:
    return ["doctor", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}/model", *more]


def test_the_verb(tiny, tmp_path, capsys):
    assert main(command(tiny, tmp_path, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert [line["check"] for line in told["lines"]] == ["recipe", *NAMES]
    assert main(command(tiny, tmp_path, "--gin.Backbone.dtype=float16")) == 2
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out if line.startswith("fail")] == [["fail", "dtype"]]
    assert len(out) == 1 + len(NAMES)


@pytest.mark.parametrize("binding", ["BATCH_SIZES=3", "Data.batch_size='ten'"])
def test_a_recipe_that_cannot_be_built(tiny, tmp_path, capsys, binding):
    assert main(command(tiny, tmp_path, f"--gin.{binding}", "--json")) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    (line,) = told["lines"]
    assert (line["check"], line["status"]) == ("recipe", "fail")
    assert line["value"].startswith(f"--gin.{binding}")


STAGES = """
include '{folder}/run.gin'
include 'methods/promot.gin'
Stages.stages = (@prompt/Stage(), @model/Stage())
model/Data.target_length = 1
"""


def test_every_stage_of_a_program_is_looked_at(tiny, tmp_path, capsys):
    (tmp_path / "stages.gin").write_text(STAGES.format(folder=tiny))
    verb = ["doctor", f"--gin_file={tmp_path}/stages.gin", f"--model_dir={tmp_path}/model"]
    assert main([*verb, "--json"]) == 2
    lines = json.loads(capsys.readouterr().out)["lines"]
    checks = [line["check"] for line in lines]
    first, later = checks[1 : 1 + len(NAMES)], checks[1 + len(NAMES) :]
    assert first == [f"1 {name}" for name in NAMES]
    assert later == [f"2 {name}" for name in doctor.OF_A_LATER_STAGE]
    assert [line["check"] for line in lines if line["status"] == "fail"] == ["2 labels"]


def test_a_terminal_gets_a_table(monkeypatch, capsys):
    monkeypatch.setattr(doctor_cli.sys.stdout, "isatty", lambda: True, raising=False)
    doctor_cli.show([doctor.Line("disk", "fail", "full", "free some")])
    out = capsys.readouterr().out
    assert "doctor" in out and "free some" in out and out.count("\n") > 3


MIXTURE = """
import seqio
from prompt_jax.metrics_qa import squad
from prompt_jax.metrics_text import accuracy
from prompt_jax.tasks.text import RowsSource, add_task, jsonl_task
FILES = {"train": "FOLDER/toy.train.jsonl", "validation": "FOLDER/toy.validation.jsonl"}
jsonl_task("one_metric", FILES, metrics=[accuracy])
jsonl_task("other_metric", FILES, metrics=[squad])
seqio.MixtureRegistry.add("no_shared_metric", [("one_metric", 1.0), ("other_metric", 1.0)])
rows = [{"inputs": f"a {n}", "targets": t} for n, t in enumerate(("yes", "no", "perhaps"))]
source = RowsSource(lambda split: rows, ("train", "validation"), "rows")
add_task("undeclared", source, [], [accuracy], ("yes", "no"))
texts = [{"inputs": f"a {n}", "targets": f"text {n}"} for n in range(99)]
add_task("no_labels", RowsSource(lambda split: texts, ("train", "validation"), "t"), [], [accuracy],
         None)
"""


@pytest.fixture(scope="module")
def faulty(tiny, tmp_path_factory):
    from prompt_jax.recipe.user_code import import_tasks_module

    module = tmp_path_factory.mktemp("faulty") / "faulty.py"
    module.write_text(MIXTURE.replace("FOLDER", str(tiny)))
    import_tasks_module(str(module))


@pytest.mark.parametrize(
    ("bindings", "check", "value"),
    [
        (["TASK='no_shared_metric'"], "metric", "the evaluation does not give it"),
        (["BEST_METRIC=('f1', 'max')"], "metric", "BEST_METRIC = 'f1': the evaluation does not"),
        (["TASK='undeclared'"], "labels", "the target 'perhaps' is none of the task's labels"),
        (["TASK='no_labels'", "Evaluation.mode='rank'"], "metric", "has no choices"),
    ],
)
def test_what_train_would_refuse_late(page, faulty, bindings, check, value):
    lines = page(*bindings)
    assert failed(lines) == [check]
    assert value in lines[check].value


def test_train_refuses_a_metric_before_it_reads_a_weight(tiny, faulty, tmp_path, capsys):
    wanted = ["--gin.TASK='no_shared_metric'", "--gin.BACKBONE='files:/not/there'"]
    at = [f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}/m"]
    assert main(["train", *at, *wanted]) == 2
    assert "BEST_METRIC = 'accuracy': the evaluation does not give it" in capsys.readouterr().err


def test_labels_that_come_back_as_others(page, tmp_path):
    rows = [("x", "billing "), ("y", "fault")]
    spiece = f"VOCABULARY='{Path(weights.__file__).parents[1]}/backbones/nano/spiece.model'"
    task = jsonl(tmp_path / "trail", rows)
    lines = page(task, write_backbone(tmp_path / "large", vocab_size=8192), spiece)
    assert failed(lines) == ["labels"]
    assert lines["labels"].value.endswith("such as 'billing ', come back as others: 'billing'")
