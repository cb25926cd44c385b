"""A prompt that is computed once: the same numbers as rows beside each example, for less work."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_data as toy
from flax import nnx

from prompt_jax.answer.answerer import Answering
from prompt_jax.backbone import weights
from prompt_jax.backbone.load import load_backbone
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.evaluate.opening import opening
from prompt_jax.evaluate.prompts import evaluate_prompts, together
from prompt_jax.methods.parts.inits import UniformInit
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.methods.soft import SoftPrompt
from prompt_jax.model.bundle import PromptBundle, Visibility, beside_text, bundle_of
from prompt_jax.model.layers import T5Config
from prompt_jax.objective.loss import Loss
from prompt_jax.prompt import computed
from prompt_jax.prompt.artefact import load_prompt, save_prompt
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.prompt.stack import stacked
from prompt_jax.run.flops import of_jaxpr

MASKED, ONCE = Visibility(input=False), Visibility(input=False, computed_once=True)
CAUSAL = Visibility(input=False, prompt="causal")
CAUSAL_ONCE = dataclasses.replace(CAUSAL, computed_once=True)


@pytest.fixture(scope="module")
def loss_and_grad():
    """`(prompt rows, batch, visibility, suffix) -> (sums, gradient)` on a random T5."""
    config = dataclasses.replace(toy.CONFIG, num_encoder_layers=2)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=s) / 4 for name, s in weights.t5x_shapes(config).items()}
    model = weights.build(config, arrays)

    def loss(rows, positions, batch, visibility):
        bundle = PromptBundle(**rows, encoder_positions=positions, visibility=visibility)
        return Loss()(lambda batch, key: model(batch, bundle, key), batch)

    both = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=3)

    def call(rows, batch, visibility, suffix):
        X, P, _ = rows["encoder"].shape
        positions = beside_text(X, P, suffix) if visibility.computed_once else None
        (_, sums), grads = both(rows, positions, toy.widened(batch), visibility)
        return sums, jax.device_get(grads)

    return call


@pytest.mark.parametrize(
    ("placement", "prompts"),
    [
        ("prefix", 2),
        ("suffix", 1),
        pytest.param("prefix", 1, marks=pytest.mark.slow),
        pytest.param("suffix", 2, marks=pytest.mark.slow),
    ],
)
def test_it_equals_rows_beside_each_example(loss_and_grad, placement, prompts):
    """Packed and padded; two tasks in a row share a prompt, or have their own, by column or row."""
    masked, once = (MASKED, ONCE) if prompts == 1 else (CAUSAL, CAUSAL_ONCE)
    layout = PromptLayout(encoder=3, placement=placement, decoder=2)
    beside = toy.batches(layout)
    alone = toy.batches(dataclasses.replace(layout, computed_once=True))
    rows = beside.plan.batch(0)
    padded = [[piece] for row in rows for piece in row]
    wanted, grads = loss_and_grad(toy.rows(prompts), beside.assemble(rows), masked, False)
    batches = [alone.assemble(rows), alone.assemble(padded)]
    assert not batches[0]["encoder_prompt_slots"].any()
    assert batches[0]["encoder_segment_ids"].max() >= 3
    for batch in batches:
        sums, found = loss_and_grad(toy.rows(prompts), batch, once, placement == "suffix")
        np.testing.assert_allclose(sums["loss"], wanted["loss"], rtol=1e-5)
        for side, grad in grads.items():
            largest = np.abs(grad).max()
            assert largest > 1e-2
            assert np.abs(grad - found[side]).max() <= 1e-5 * largest, side


def test_packed_rows_hold_text_alone_and_a_step_costs_less():
    """Sixteen examples of 24 tokens and a prompt of 100, by the products in the step's jaxpr."""
    config = T5Config(60, 16, 2, 8, 32, 2, 2, dropout_rate=0.0, dtype="float32")
    graphdef, params = weights.abstract(config)
    rows = jax.ShapeDtypeStruct((100, 16), jnp.float32)

    def flops(visibility: Visibility, columns: int, prompt_columns: int) -> float:
        def loss(rows, params, batch):
            model, bundle = nnx.merge(graphdef, params), bundle_of({"encoder": rows}, visibility)
            return Loss()(lambda batch, key: model(batch, bundle, key), batch)[0]

        T = jax.ShapeDtypeStruct((1, 16 * (columns + prompt_columns)), jnp.int32)
        S = jax.ShapeDtypeStruct((1, 16 * 4), jnp.int32)
        encoder = ("input_tokens", "segment_ids", "prompt_slots", "task_ids")
        decoder = ("input_tokens", "target_tokens", "segment_ids")
        batch = {f"encoder_{name}": T for name in encoder}
        batch |= {f"decoder_{name}": S for name in decoder}
        return of_jaxpr(jax.make_jaxpr(jax.grad(loss))(rows, params, batch))

    masked, once = flops(MASKED, 24, 100), flops(ONCE, 24, 0)
    assert once < masked / 5


def saved(folder: Path, tiny: Path, length: int, visibility: dict) -> str:
    """An artefact of noise that changes what the model says."""
    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    method = SoftPrompt(length=length, init=UniformInit(), decoder_length=1)
    arrays = method.fold(method.create(jax.random.key(0), Shapes(backbone.config)))
    rng = np.random.default_rng(length)
    noisy = {n: (x + rng.normal(size=x.shape)).astype(np.float32) for n, x in arrays.items()}
    facts = {
        "backbone": {"name": backbone.name, "digest": backbone.digest},
        "placement": "prefix",
        "visibility": visibility,
        **dict.fromkeys(("tokenizer", "task", "metric", "step", "seed")),
    }
    save_prompt(folder, noisy, {**method.manifest(), **facts})
    return str(folder)


def test_saved_prompts_answer_as_rows_beside_each_example_do(tiny: Path, tmp_path: Path):
    """Two lengths in the same batches, and beside a prompt that sees the input."""
    policy = {"input": False, "prompt": "all"}
    paths = [saved(tmp_path / f"m{n}", tiny, n, policy) for n in (3, 5)]
    once = []
    for path in paths:
        shutil.copytree(path, f"{path}once")
        manifest = json.loads((Path(path) / "manifest.json").read_text())
        manifest["visibility"]["computed_once"] = True
        (Path(f"{path}once") / "manifest.json").write_text(json.dumps(manifest))
        once.append(f"{path}once")
    plain = saved(tmp_path / "plain", tiny, 2, {"input": True, "prompt": "all"})
    prompts = [load_prompt(path) for path in [*once, plain]]
    assert [p.layout.columns for p in prompts] == [0, 0, 2]
    assert together(prompts) == [[0, 1, 2]]
    _, rows = evaluate_prompts(
        opening(
            f"files:{tiny}/backbone",
            [*once, plain, *paths],
            input_length=28,
            target_length=4,
            dtype="float32",
        ),
        str(tiny / "toy.train.jsonl"),
        "validation",
        batch_size=16,
        max_examples=6,
        answering=Answering(),
    )
    scores = {p: [r["score"] for r in rows if r["prompt"] == p] for p in [*once, plain, *paths]}
    for one, other in zip(once, paths, strict=True):
        np.testing.assert_allclose(scores[one], scores[other], atol=1e-5)
    assert not np.allclose(scores[once[0]], scores[once[1]], atol=1e-3)


def test_keys_and_values_are_saved_and_taken_for_the_same_weights_alone(
    tiny: Path, tmp_path: Path, monkeypatch
):
    policy = {"input": False, "prompt": "all", "computed_once": True}
    path = saved(tmp_path / "once", tiny, 3, policy)
    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    computed.save(path, backbone)
    prompt = load_prompt(path)
    weights = computed.weights_of(backbone)
    again = computed.bundle(prompt, backbone.model)

    def never(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(computed, "by_encoder", never)
    taken = computed.bundle(prompt, backbone.model, weights)
    assert jax.tree.structure(taken) == jax.tree.structure(again)
    for one, other in zip(jax.tree.leaves(taken), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    other = computed.weights_of(load_backbone(f"files:{tiny}/backbone", "bfloat16"))
    for changed, of in (
        (prompt, other),
        (dataclasses.replace(prompt, manifest={**prompt.manifest, "placement": "suffix"}), weights),
        (dataclasses.replace(prompt, manifest={**prompt.manifest, "sha256": "0"}), weights),
    ):
        with pytest.raises(AssertionError, match="computed again"):
            computed.bundle(changed, backbone.model, of)
    (Path(path) / computed.FILE).write_bytes(b"12345678{")
    with pytest.raises(UserError, match="delete it"):
        computed.bundle(prompt, backbone.model, weights)


@pytest.mark.slow
def test_a_run_saves_keys_and_values_beside_its_prompt(tiny: Path, tmp_path: Path):
    bindings = ["SoftPrompt.visibility=@Visibility()", "Visibility.input=False"]
    bindings += ["Visibility.computed_once=True", "TRAIN_STEPS=4"]
    argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}/run"]
    assert main([*argv, *(f"--gin.{binding}" for binding in bindings)]) == 0
    for name in ("last", "best"):
        assert (tmp_path / "run" / "prompt" / name / computed.FILE).is_file()


def test_what_cannot_be_computed_once_is_refused():
    with pytest.raises(UserError, match=r"bind Visibility\.input = False"):
        Visibility(computed_once=True)
    with pytest.raises(UserError, match="take prefix or suffix"):
        SoftPrompt(placement="after_bos", visibility=ONCE)
    bundles = [bundle_of({"encoder": jnp.zeros((n, 4))}, ONCE) for n in (2, 3)]
    with pytest.raises(ValueError, match="several numbers"):
        stacked(bundles)
