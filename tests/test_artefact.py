"""Prompt artefacts: what is written is read back, and nothing else is."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import Backbone
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.parts.inits import UniformInit
from prompt_jax.methods.soft import SoftPrompt, SoftPromptModule
from prompt_jax.model import t5
from prompt_jax.model.bundle import Visibility
from prompt_jax.prompt import artefact, files
from prompt_jax.prompt.artefact import check_backbone, load_prompt, save_prompt
from prompt_jax.prompt.files import MANIFEST, TENSORS
from prompt_jax.prompt.layout import PromptLayout

CONFIG = t5.T5Config(50, 8, 2, 4, 16, 1, 1, dtype="float32")
FACTS = {
    "backbone": {"name": "random:tiny", "digest": "a" * 64},
    "tokenizer": None,
    "task": "toy",
    "metric": {"accuracy": 50.0},
    "step": 7,
    "seed": 3,
}
MANIFEST_OF_TOY = {
    "method": "SoftPrompt",
    "settings": {"class": "SoftPrompt", "length": 4},
    "placement": "after_bos",
    "visibility": {"class": "Visibility", "input": False, "prompt": "causal"},
    **FACTS,
}


def rows(length: int = 4, width: int = 8, value: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(0).normal(size=(length, width))
    return (draw + value).astype(np.float32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "prompt" / "best"
    save_prompt(folder, {"encoder": rows(), "decoder": rows(2)}, MANIFEST_OF_TOY)
    return folder


def rewrite(folder: Path, **changes) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_what_is_saved_is_loaded(saved):
    prompt = load_prompt(saved)
    assert sorted(path.name for path in saved.iterdir()) == [MANIFEST, TENSORS]
    assert [path.name for path in saved.parent.iterdir()] == ["best"]
    np.testing.assert_array_equal(prompt.array, rows())
    np.testing.assert_array_equal(prompt.arrays["decoder"], rows(2))
    assert prompt.path == str(saved)
    assert prompt.layout == PromptLayout(encoder=4, placement="after_bos", decoder=2)
    bundle = prompt.bundle()
    assert bundle.encoder is not None and bundle.decoder is not None
    assert (bundle.encoder.shape, bundle.decoder.shape) == ((1, 4, 8), (1, 2, 8))
    assert bundle.encoder.dtype == bundle.decoder.dtype == np.float32
    assert bundle.visibility == Visibility(input=False, prompt="causal")
    assert MANIFEST_OF_TOY.items() <= prompt.manifest.items()
    assert prompt.manifest["format_version"] == 1
    assert prompt.manifest["shapes"] == {"encoder": [4, 8], "decoder": [2, 8]}
    assert set(prompt.manifest["versions"]) == {"prompt_jax", "jax", "flax"}


def test_a_decoder_prompt_alone(tmp_path):
    save_prompt(tmp_path / "p", {"decoder": rows(2)}, MANIFEST_OF_TOY)
    prompt = load_prompt(tmp_path / "p")
    assert prompt.layout == PromptLayout(encoder=0, placement="after_bos", decoder=2)
    assert prompt.bundle().encoder is None
    with pytest.raises(UserError, match="has decoder rows only"):
        _ = prompt.array


def test_the_bytes_are_always_the_same(saved, tmp_path):
    again = tmp_path / "again"
    save_prompt(str(again), {"decoder": rows(2), "encoder": rows()}, MANIFEST_OF_TOY)
    for name in (TENSORS, MANIFEST):
        a, b = (saved / name).read_bytes(), (again / name).read_bytes()
        assert a == b if name == TENSORS else len(a) == len(b)
    save_prompt(saved, {"encoder": rows(), "decoder": rows(2)}, MANIFEST_OF_TOY)
    assert (saved / TENSORS).read_bytes() == (again / TENSORS).read_bytes()


def test_a_method_saves_what_it_folds_to(tmp_path):
    method = SoftPrompt(
        length=3,
        init=UniformInit(),
        placement="suffix",
        decoder_length=1,
        visibility=Visibility(prompt="self"),
    )
    module = SoftPromptModule(rows(3), rows(1), method.visibility)
    model = PromptedT5(nnx.Module(), module)
    method.save(tmp_path / "p", model, None, FACTS)
    prompt = load_prompt(tmp_path / "p")
    assert prompt.layout == method.layout
    assert prompt.visibility == method.visibility
    assert prompt.manifest["settings"]["init"] == {
        "class": "UniformInit",
        "scale": 0.5,
        "symmetric": True,
    }
    for name, folded in method.fold(module).items():
        np.testing.assert_array_equal(prompt.arrays[name], folded)


def test_other_floats_become_float32(tmp_path):
    np.save(tmp_path / "p.npy", rows().astype(np.float64))
    prompt = load_prompt(tmp_path / "p.npy")
    assert prompt.array.dtype == np.float32
    np.testing.assert_array_equal(prompt.array, rows())
    assert prompt.manifest == {}
    assert prompt.layout == PromptLayout(encoder=4)
    assert prompt.bundle().visibility == Visibility()


@pytest.mark.parametrize("name", ["mrpc", "rte", "sst2"])
def test_released_prompts_load(shared, name):
    path = shared / "golden" / "released_prompts" / f"{name}.npy"
    prompt = load_prompt(path)
    assert prompt.array.shape == (100, 768)
    assert 30 < prompt.array.std() < 55
    np.testing.assert_array_equal(prompt.array, np.load(path, allow_pickle=False))


# What is refused


def truncate(folder: Path) -> None:
    whole = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(whole[:-8])


def other_numbers(folder: Path) -> None:
    data = safetensors.numpy.save({"encoder": rows(value=1.0), "decoder": rows(2)})
    (folder / TENSORS).write_bytes(data)


def told(**changes):
    return lambda folder: rewrite(folder, **changes)


def without(field: str):
    def remove(folder: Path):
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({k: manifest[k] for k in manifest if k != field}))

    return remove


DAMAGE = [
    (shutil.rmtree, "does not exist; give an artefact's directory or a .npy"),
    (lambda f: (f / MANIFEST).unlink(), f"{MANIFEST}': no such file; an artefact has"),
    (lambda f: (f / TENSORS).unlink(), f"{TENSORS}': no such file; an artefact has"),
    (lambda f: (f / MANIFEST).write_text("{"), f"{MANIFEST}: not JSON"),
    (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe\xfa"), f"{MANIFEST}: not UTF-8"),
    (lambda f: (f / MANIFEST).write_text("[1]"), "holds no JSON object"),
    (truncate, f"{TENSORS}: has SHA-256"),
    (other_numbers, "the file was changed or cut short"),
    (told(shapes={"encoder": [5, 8], "decoder": [2, 8]}), "the manifest says"),
    (told(format_version=2), "format version 2, this prompt_jax reads 1"),
    (told(placement="middle"), f"{MANIFEST}: PromptLayout.placement = 'middle': expected one of"),
    (told(visibility="all"), "visibility = 'all' needs input and prompt"),
    (told(visibility={"input": 1, "prompt": "all"}), "Visibility.input = 1: expected bool"),
    (told(backbone={"name": "nano"}), "needs name and digest"),
    *((without(field), f"field '{field}' is missing") for field in ("placement", "sha256")),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[str(i) for i in range(len(DAMAGE))])
def test_a_damaged_artefact_is_refused_in_one_line(saved, damage, message):
    damage(saved)
    with pytest.raises(UserError) as caught:
        load_prompt(saved)
    assert message in str(caught.value)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_artefact(tmp_path):
    (tmp_path / "p").write_text("x")
    with pytest.raises(UserError, match=r"is not a directory; give an artefact's directory"):
        load_prompt(tmp_path / "p")


def cut_short(path: Path) -> None:
    np.save(path, rows())
    path.write_bytes(path.read_bytes()[:-4])


BAD_NPY = [
    (lambda p: np.save(p, np.array([{}, 1], object), allow_pickle=True), "Object arrays"),
    (lambda p: p.write_bytes(b"rubbish, and a good deal of it"), "not an array of numbers"),
    (lambda p: p.write_bytes(b""), "not an array of numbers"),
    (cut_short, "not an array of numbers"),
    (lambda p: np.save(p, np.zeros((4, 8), np.int32)), "the file holds int32 [4, 8]"),
    (lambda p: np.save(p, np.zeros(8)), "the file holds float64 [8]"),
    (lambda p: np.save(p, np.zeros((0, 8))), "[0, 8]"),
    (lambda p: np.save(p, rows() * np.nan), "NaN or infinity"),
    (lambda p: None, "no such file"),
]


@pytest.mark.parametrize(("write", "message"), BAD_NPY, ids=[str(i) for i in range(len(BAD_NPY))])
def test_a_bad_npy_is_refused_in_one_line(tmp_path, write, message):
    path = tmp_path / "p.npy"
    write(path)
    with pytest.raises(UserError) as caught:
        load_prompt(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_ARRAYS = [
    ({}, "arrays []"),
    ({"middle": rows()}, "arrays ['middle']"),
    ({"encoder": rows()[0]}, "encoder holds float32 [8]"),
    ({"encoder": np.ones((2, 8), int)}, "encoder holds int64 [2, 8]"),
    ({"encoder": rows(), "decoder": rows(2, 6)}, "differ in width, [6, 8]"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_ARRAYS)
def test_arrays_that_are_no_prompt_are_not_saved(tmp_path, arrays, message):
    with pytest.raises(UserError) as caught:
        save_prompt(tmp_path / "p", arrays, MANIFEST_OF_TOY)
    assert message in str(caught.value)
    assert not (tmp_path / "p").exists()


def test_saving_never_replaces_anything_but_a_prompt(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"holds 'thesis.tex' and is not a prompt"):
        save_prompt(tmp_path / "home", {"encoder": rows()}, MANIFEST_OF_TOY)
    with pytest.raises(UserError, match=r"is a file; give another path"):
        save_prompt(tmp_path / "home" / "thesis.tex", {"encoder": rows()}, MANIFEST_OF_TOY)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


def toy_backbone(digest: str, config: t5.T5Config = CONFIG) -> Backbone:
    model = nnx.merge(*weights.abstract(CONFIG))
    return Backbone(config, model, "random:other", digest, None)


def test_a_prompt_of_another_backbone_is_refused(saved, tmp_path):
    prompt, same, other = load_prompt(saved), toy_backbone("a" * 64), toy_backbone("b" * 64)
    check_backbone(prompt, same)
    with pytest.raises(UserError) as caught:
        check_backbone(prompt, other)
    for part in ("'random:tiny'", "aaaa", "'random:other'", "bbbb", "--allow_other_backbone"):
        assert part in str(caught.value)
    check_backbone(prompt, other, allow_other=True)
    wide = toy_backbone("a" * 64, replace(CONFIG, emb_dim=16))
    np.save(tmp_path / "p.npy", rows())
    check_backbone(load_prompt(tmp_path / "p.npy"), other)
    for any_prompt in (prompt, load_prompt(tmp_path / "p.npy")):
        with pytest.raises(UserError, match="is 8 wide and backbone 'random:other' 16"):
            check_backbone(any_prompt, wide, allow_other=True)


# Replacing one artefact by another

WRITER = """
import json, sys, numpy as np
from prompt_jax.prompt import artefact, files
if sys.argv[3] == "renames":
    files.exchange = lambda a, b: False
manifest = json.loads(sys.argv[2])
n = 0
while True:
    n += 1
    rows = np.full((200, 256), n, np.float32)
    artefact.save_prompt(sys.argv[1], {"encoder": rows}, {**manifest, "step": n})
    print(n, flush=True)
"""


def start_writer(folder: Path, how: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(folder), json.dumps(MANIFEST_OF_TOY), how]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"1\n"
    return writer


def whole(folder: Path) -> int:
    """The step of an artefact, whose rows all say the same."""
    prompt = load_prompt(folder)
    assert (prompt.array == prompt.manifest["step"]).all()
    return prompt.manifest["step"]


def test_a_reader_never_sees_a_half(tmp_path):
    writer = start_writer(tmp_path / "p", "exchange")
    try:
        steps = [whole(tmp_path / "p") for _ in range(50)]
    finally:
        writer.kill()
        writer.communicate()
    assert steps == sorted(steps) and steps[-1] > steps[0]


@pytest.mark.parametrize("how", ["exchange", pytest.param("renames", marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_leaves_the_old_or_the_new(tmp_path, how):
    for attempt in range(2):
        folder = tmp_path / str(attempt) / "p"
        writer = start_writer(folder, how)
        time.sleep(0.02 + 0.0137 * attempt)
        writer.send_signal(signal.SIGKILL)
        printed = writer.communicate()[0].split()
        finished = int(printed[-1]) if printed else 1
        assert whole(folder) in (finished, finished + 1)
        save_prompt(folder, {"encoder": np.full((2, 8), 0.0)}, {**MANIFEST_OF_TOY, "step": 0})
        assert whole(folder) == 0
        assert [path.name for path in folder.parent.iterdir()] == ["p"]


class Killed(BaseException):
    """Stands for SIGKILL between two system calls."""


@pytest.mark.parametrize("exchange", [True, False])
def test_killed_before_each_system_call(tmp_path, monkeypatch, exchange):
    """The same, at every rename and removal in turn."""
    if not exchange:
        monkeypatch.setattr(files, "exchange", lambda a, b: False)
    points = [(Path, "rename"), (shutil, "rmtree"), (Path, "mkdir"), (os, "fsync")]
    for point, name, call in [(*point, call) for point in points for call in range(1, 5)]:
        folder = tmp_path / f"{name}{call}" / "p"
        save_prompt(folder, {"encoder": rows()}, {**MANIFEST_OF_TOY, "step": 1})
        killed = save_until(folder, point, name, call)
        step = load_prompt(folder).manifest["step"]
        assert step in (1, 2) if killed else step == 2
        save_prompt(folder, {"encoder": rows()}, {**MANIFEST_OF_TOY, "step": 3})
        assert load_prompt(folder).manifest["step"] == 3
        assert [path.name for path in folder.parent.iterdir()] == ["p"]


def save_until(folder: Path, owner, name: str, call: int) -> bool:
    """Saves step 2 but dies at the given call of a function; False if it was called less often."""
    calls = []

    with pytest.MonkeyPatch.context() as patch:
        original = inspect.getattr_static(owner, name)

        def counted(*args, **options):
            calls.append(args)
            if len(calls) == call:
                raise Killed
            return original(*args, **options)

        patch.setattr(owner, name, counted)
        try:
            save_prompt(folder, {"encoder": rows()}, {**MANIFEST_OF_TOY, "step": 2})
        except Killed:
            return True
    return False


def test_two_names_are_exchanged_at_once_here(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if files.exchange(tmp_path / "a", tmp_path / "b"):
        assert (tmp_path / "a" / "b").exists() and (tmp_path / "b" / "a").exists()
    else:
        assert (tmp_path / "a" / "a").exists() and (tmp_path / "b" / "b").exists()
    assert not files.exchange(tmp_path / "a", tmp_path / "missing")


def test_in_a_bucket_the_manifest_comes_last(tmp_path, monkeypatch):
    monkeypatch.setattr(artefact, "is_local", lambda path: False)
    save_prompt(tmp_path / "p", {"encoder": rows()}, {**MANIFEST_OF_TOY, "step": 1})
    assert load_prompt(tmp_path / "p").manifest["step"] == 1
    assert save_until(tmp_path / "p", type(epath.Path("x")), "write_bytes", 1)
    assert not (tmp_path / "p" / MANIFEST).exists()
    with pytest.raises(UserError, match=MANIFEST):
        load_prompt(tmp_path / "p")
    save_prompt(tmp_path / "p", {"encoder": rows()}, {**MANIFEST_OF_TOY, "step": 3})
    assert load_prompt(tmp_path / "p").manifest["step"] == 3
