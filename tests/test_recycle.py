"""Recycled prompts: three maps between embeddings, and the artefact that comes out."""

import json
import re

import numpy as np
import pytest

from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import files
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.model import t5
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.transfer.recycle import Fit, error_of, fitted, recycle

RNG = np.random.default_rng(0)
S = RNG.normal(size=(60, 8)).astype(np.float32)
W = RNG.normal(size=(8, 5)).astype(np.float32)
ROWS = RNG.normal(size=(3, 8)).astype(np.float32)


@pytest.mark.parametrize(
    "fit", [Fit(), Fit(how="combination", ridge=0.0)], ids=["linear", "combination"]
)
def test_a_linear_relation_is_found(fit):
    """Without a ridge the combination of least norm gives the rows of the linear map."""
    mapped = fitted(fit, S, S @ W)
    np.testing.assert_allclose(mapped(ROWS), ROWS @ W, rtol=1e-4, atol=1e-4)
    assert error_of(mapped, S, S @ W) < 1e-5


def test_the_combination_of_least_norm_is_the_linear_map():
    T = np.tanh(S @ W) + 0.1 * RNG.normal(size=(60, 5)).astype(np.float32)
    C = ROWS @ np.linalg.pinv(S)
    for fit in (Fit(), Fit(how="combination", ridge=0.0)):
        np.testing.assert_allclose(fitted(fit, S, T)(ROWS), C @ T, rtol=1e-3, atol=1e-4)
    shrunk = fitted(Fit(how="combination", ridge=1.0), S, T)(ROWS)
    assert np.linalg.norm(shrunk) < 0.9 * np.linalg.norm(C @ T)


def test_the_network_learns_what_is_not_linear():
    many = RNG.normal(size=(4000, 8)).astype(np.float32)
    T = np.abs(many @ W)
    errors = [error_of(fitted(Fit(how=how), many, T), many, T) for how in ("linear", "mlp")]
    assert errors[1] < 0.8 * errors[0] < 1


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> list[str]:
    """Two random T5s of bytes, 16 and 12 wide."""
    folder = tmp_path_factory.mktemp("backbones")
    for width in (16, 12):
        config = t5.T5Config(264, width, 2, 4, 16, 1, 1)
        arrays = weights.arrays_of(weights.init(config, width))
        files.write(str(folder / str(width)), config, arrays, "bytes")
    return [f"files:{folder}/{width}" for width in (16, 12)]


def test_a_prompt_is_recycled_by_the_command(backbones, tmp_path, capsys):
    np.save(tmp_path / "p.npy", RNG.normal(size=(4, 16)).astype(np.float32))
    words = [f"--prompt={tmp_path}/p.npy", f"--from={backbones[0]}", f"--backbone={backbones[1]}"]
    words += ["--skip=10", "--pieces=200", f"--output={tmp_path}/out", "--json"]
    assert main(["recycle", *words]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["pieces"] == 200 and 0 < record["fit_error"] < record["held_out_error"]
    saved = load_prompt(tmp_path / "out")
    assert saved.array.shape == (4, 12) and saved.manifest["recycled"]["how"] == "linear"
    assert saved.manifest["backbone"]["name"] == backbones[1]


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (Fit(how="quadratic"), "--how=quadratic: give one of linear, combination, mlp"),
        (Fit(), "share 0 pieces after the first 1000; give a smaller --skip"),
    ],
)
def test_what_cannot_be_fitted_is_said(backbones, tmp_path, fit, message):
    np.save(tmp_path / "p.npy", np.ones((4, 16), np.float32))
    with pytest.raises(UserError, match=re.escape(message)):
        recycle([str(tmp_path / "p.npy")], backbones[:1], backbones[1], str(tmp_path / "out"), fit)
    assert not (tmp_path / "out").exists()


def test_several_prompts_are_for_one_how_and_of_as_many_rows(tmp_path):
    paths = [str(tmp_path / f"{n}.npy") for n in (2, 3)]
    for n, path in zip((2, 3), paths, strict=True):
        np.save(path, np.ones((n, 4), np.float32))
    relative, both = Fit(how="relative"), ["nano", "nano"]
    for prompts, sources, fit, message in (
        (paths, ["nano"], relative, "--from: 2 prompts and 1 backbones; give one for each"),
        (paths, both, Fit(), "--how=linear: takes one prompt; give one, or --how=relative"),
        (paths, both, relative, "has rows {'encoder': 3}, .*give prompts of as many rows"),
    ):
        with pytest.raises(UserError, match=message):
            recycle(prompts, sources, "nano", str(tmp_path / "out"), fit)
