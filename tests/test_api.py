"""The Python API: its examples, its errors, and the numbers of google-research/prompt-tuning."""

import doctest
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

import prompt_jax as pj
from prompt_jax import api
from prompt_jax.backbone import weights
from prompt_jax.backbone.load import Backbone
from prompt_jax.errors import UserError
from prompt_jax.model import decode, t5
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.recipe import config

TINY = t5.T5Config(50, 16, 2, 8, 24, 2, 2, num_buckets=8, max_distance=12, dtype="float32")
RNG = np.random.default_rng(0)
ROWS = RNG.normal(0, 1, (3, 16)).astype(np.float32)
PACKED = {
    "encoder_input_tokens": np.array([[7, 8, 1, 9, 1, 0], [5, 6, 7, 8, 1, 0]]),
    "encoder_segment_ids": np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 0]]),
    "encoder_positions": np.array([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 0]]),
    "decoder_input_tokens": np.array([[0, 4, 0, 3, 2], [0, 9, 0, 0, 0]]),
    "decoder_target_tokens": np.array([[4, 1, 3, 2, 1], [9, 1, 0, 0, 0]]),
    "decoder_segment_ids": np.array([[1, 1, 2, 2, 2], [1, 1, 0, 0, 0]]),
    "decoder_positions": np.array([[0, 1, 0, 1, 2], [0, 1, 0, 0, 0]]),
}
APART = {
    "encoder_input_tokens": np.array([[7, 8, 1, 0, 0], [9, 1, 0, 0, 0], [5, 6, 7, 8, 1]]),
    "decoder_input_tokens": np.array([[0, 4, 0], [0, 3, 2], [0, 9, 0]]),
    "decoder_target_tokens": np.array([[4, 1, 0], [3, 2, 1], [9, 1, 0]]),
}
MANIFEST = {
    "placement": "suffix",
    "visibility": {"input": True, "prompt": "causal"},
    "backbone": {"name": "tiny", "digest": "d" * 64},
}


@pytest.fixture(scope="module")
def tiny():
    rng = np.random.default_rng(3)
    shapes = weights.t5x_shapes(TINY)
    model = weights.build(TINY, {k: rng.normal(0, s[0] ** -0.5, s) for k, s in shapes.items()})
    return Backbone(TINY, model, "tiny", "d" * 64, None)


@pytest.fixture
def saved():
    """A prompt with rows on both sides, as `load_prompt` returns it."""
    decoder = RNG.normal(0, 1, (2, 16)).astype(np.float32)
    return Prompt({"encoder": ROWS, "decoder": decoder}, MANIFEST, "somewhere")


@pytest.mark.slow
def test_examples():
    result = doctest.testmod(api)
    assert result.failed == 0 and result.attempted >= 10


def test_public_names_are_those_of_the_package():
    assert sorted(api.__all__) == sorted(pj.__all__)
    for name in pj.__all__:
        assert vars(api)[name] is getattr(pj, name)


@pytest.mark.parametrize("name", ["basic", "long"])
def test_prompted_results_equal_prompt_tuning(shared, name):
    folder = shared / "golden" / "t5x"
    backbone = pj.load_backbone(f"t5x:{folder}/v11_t5x/checkpoint_1000", dtype="float32")
    arrays = np.load(folder / "v11_prompted.npz")
    peer = {k.split("/")[1]: arrays[k] for k in arrays.files if k.startswith(f"{name}/")}
    batch = {k: v for k, v in peer.items() if k.startswith(("encoder_", "decoder_"))}

    found = pj.logits(backbone, batch, arrays["prompt"])
    real = batch["decoder_target_tokens"] > 0
    assert np.abs(found - peer["logits"])[real].max() < 2e-5
    loss, grad = pj.loss_and_prompt_grad(backbone, batch, arrays["prompt"], z_loss=1e-4)
    np.testing.assert_allclose(loss, peer["loss"], rtol=1e-5)
    off = np.linalg.norm(grad - peer["prompt_grad"])
    assert off < 1e-4 * np.linalg.norm(peer["prompt_grad"])
    np.testing.assert_allclose(grad, peer["prompt_grad"], atol=1e-4 * np.abs(grad).max())


@pytest.mark.parametrize("kind", ["none", "saved"])
def test_packed_logits_are_those_of_rows_apart(tiny, saved, kind):
    prompt = {"none": None, "saved": saved}[kind]
    packed = pj.logits(tiny, PACKED, prompt)
    apart = pj.logits(tiny, APART, prompt)
    assert packed.shape == (2, 5, 50) and apart.shape == (3, 3, 50)
    for row, columns, alone in ((0, [0, 1], 0), (0, [2, 3, 4], 1), (1, [0, 1], 2)):
        np.testing.assert_allclose(
            packed[row, columns], apart[alone, : len(columns)], rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_packed_loss_and_gradient_are_those_of_rows_apart(tiny, saved):
    loss, grad = pj.loss_and_prompt_grad(tiny, PACKED, saved)
    alone, alone_grad = pj.loss_and_prompt_grad(tiny, APART, saved)
    assert grad.shape == ROWS.shape
    np.testing.assert_allclose(loss, alone, rtol=1e-5)
    np.testing.assert_allclose(grad, alone_grad, rtol=1e-4, atol=1e-5 * np.abs(grad).max())


def test_gradient_is_that_of_differences(tiny):
    step, at = 1e-2, (1, 5)
    _, grad = pj.loss_and_prompt_grad(tiny, APART, ROWS)
    ends = []
    for sign in (1, -1):
        moved = ROWS.copy()
        moved[at] += sign * step
        ends.append(pj.loss_and_prompt_grad(tiny, APART, moved)[0])
    assert grad[at] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02)


def test_loss_weights_count(tiny):
    weights = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    batch = APART | {"decoder_loss_weights": weights}
    loss, _ = pj.loss_and_prompt_grad(tiny, batch, ROWS, z_loss=0.0)
    logp = jax.nn.log_softmax(pj.logits(tiny, APART, ROWS)[0, 0])
    np.testing.assert_allclose(loss, -logp[4], rtol=1e-5)


@pytest.mark.parametrize("kind", ["none", "saved"])
def test_generated_ids_score_as_choices(tiny, saved, kind):
    prompt = {"none": None, "saved": saved}[kind]
    tokens = APART["encoder_input_tokens"]
    ids, scores = pj.generate(tiny, tokens, prompt, beams=2, alpha=0.0, max_length=4)
    assert ids.shape == (3, 2, 4) and ids.dtype == np.int32
    assert scores.shape == (3, 2) and scores.dtype == np.float32
    whole = (ids > 0).all(axis=-1) | (ids == 1).any(axis=-1)  # the token 0 inside reads as padding
    whole &= np.where((ids == 1).any(-1), (ids > 0).sum(-1) == (ids == 1).argmax(-1) + 1, whole)
    assert whole.any()
    found = pj.score(tiny, tokens, ids, prompt)
    np.testing.assert_allclose(found[whole], scores[whole], rtol=1e-4)


def test_a_saved_prompt_keeps_placement_and_visibility(tiny):
    told = MANIFEST | {"placement": "prefix", "visibility": {"input": True, "prompt": "all"}}
    plain = Prompt({"encoder": ROWS}, told, "somewhere")
    np.testing.assert_array_equal(pj.logits(tiny, APART, plain), pj.logits(tiny, APART, ROWS))
    other = Prompt({"encoder": ROWS}, MANIFEST, "somewhere")
    assert np.abs(pj.logits(tiny, APART, other) - pj.logits(tiny, APART, ROWS)).max() > 1e-3


def test_a_prompt_of_another_backbone_is_refused(tiny, saved):
    told = MANIFEST | {"backbone": {"name": "other", "digest": "e" * 64}}
    with pytest.raises(UserError, match="was tuned for 'other'"):
        pj.logits(tiny, APART, Prompt(saved.arrays, told, "somewhere"))


def test_results_are_numpy_and_calls_compile_once(tiny):
    tokens = APART["encoder_input_tokens"]
    calls = [
        lambda: pj.logits(tiny, APART, ROWS),
        lambda: pj.loss_and_prompt_grad(tiny, APART, ROWS),
        lambda: pj.generate(tiny, tokens, ROWS, beams=2, max_length=4),
        lambda: pj.score(tiny, tokens, tokens[:, None], ROWS),
    ]
    for call in calls:
        results = call()
        for result in results if isinstance(results, tuple) else (results,):
            assert isinstance(result, np.ndarray)
        with compilations() as compiled:
            call()
        assert compiled == []


def test_row_lengths_compile_nothing_new(tiny):
    """The width of a laid-out batch depends on shapes alone, not on how long its rows are."""
    pj.generate(tiny, [[7, 8, 9, 1]], ROWS, max_length=3)
    with compilations() as compiled:
        pj.generate(tiny, [[7, 1, 0, 0]], ROWS, max_length=3)
    assert compiled == []


def test_decode_and_api_agree(tiny):
    tokens = jnp.asarray(APART["encoder_input_tokens"])
    ids, scores = jax.jit(
        lambda model: decode.generate(model, {"encoder_input_tokens": tokens}, max_length=3)
    )(tiny.model)
    found, found_scores = pj.generate(tiny, tokens, max_length=3)
    np.testing.assert_array_equal(found, ids)
    np.testing.assert_allclose(found_scores, scores, rtol=1e-5)


def test_train_runs_what_the_recipe_says(monkeypatch, tmp_path):
    importlib.import_module("prompt_jax.run.stages")
    seen = {}

    def load(root, gin_files, bindings):
        seen["load"] = (root, gin_files, bindings)
        return config.Config("the run", "the text", ())

    def run(root, model_dir, *, operative, observers):
        assert observers
        seen["run"] = (root, model_dir, operative)
        return {"accuracy": 1.0}

    monkeypatch.setattr(config, "load", load)
    monkeypatch.setattr(sys.modules["prompt_jax.run.stages"], "run_recipe", run)
    assert pj.train(["a.gin"], ["SEED=1"], str(tmp_path)) == {"accuracy": 1.0}
    assert seen["load"] == (("Stages", "Train"), ["a.gin"], ["SEED=1"])
    assert seen["run"] == ("the run", str(tmp_path), "the text")


WRONG = {
    "width": (
        lambda b: pj.logits(b, APART, np.zeros((5, 64), np.float32)),
        "prompt 'array float32 [5, 64]': is 64 wide and backbone 'tiny' 16; take the backbone",
    ),
    "rank": (
        lambda b: pj.logits(b, APART, np.zeros(16, np.float32)),
        "prompt: array float32 [16]; give floats [rows, 16]",
    ),
    "integers": (
        lambda b: pj.generate(b, [[7, 1]], np.ones((5, 16), np.int32)),
        "prompt: array int32 [5, 16]; give floats [rows, 16]",
    ),
    "no prompt": (
        lambda b: pj.loss_and_prompt_grad(b, APART, None),
        "loss_and_prompt_grad: the prompt has no encoder rows; give some [P, d]",
    ),
    "missing feature": (
        lambda b: pj.logits(b, {"encoder_input_tokens": [[1]]}),
        "batch: no decoder_input_tokens; it needs encoder_input_tokens, decoder_input_tokens",
    ),
    "laid out twice": (
        lambda b: pj.logits(b, APART | {"encoder_prompt_slots": np.zeros((3, 5), np.int32)}),
        "batch: encoder_prompt_slots exists already; leave the prompt's columns out",
    ),
    "tokens of rank 1": (
        lambda b: pj.generate(b, [7, 1]),
        "encoder_input_tokens: int64 [2]; give an int array with 2 axes, padded with 0",
    ),
    "unknown id": (
        lambda b: pj.generate(b, [[50, 1]]),
        "encoder_input_tokens: id 50 is outside 0..49; tokenise with the backbone's vocabulary",
    ),
    "negative id": (
        lambda b: pj.score(b, [[7, 1]], [[[-1]]]),
        "choices: id -1 is outside 0..49; tokenise with the backbone's vocabulary",
    ),
    "rows of choices": (
        lambda b: pj.score(b, [[7, 1]], [[[4]], [[5]]]),
        "choices: 2 rows for 1 inputs; give [B, C, T]",
    ),
    "beams": (lambda b: pj.generate(b, [[7, 1]], beams=0), "generate: beams = 0; give at least 1"),
    "length": (
        lambda b: pj.generate(b, [[7, 1]], max_length=0),
        "generate: max_length = 0; give at least 1",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_are_one_line(tiny, what):
    call, message = WRONG[what]
    with pytest.raises(UserError) as error:
        call(tiny)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
