"""Quantised frozen weights: what is held, what it costs in precision, meshes, runs, refusals."""

import dataclasses
import json
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from prompt_jax import api
from prompt_jax.answer.arrays import TEACHER_FORCING
from prompt_jax.backbone import weights
from prompt_jax.backbone.convert import convert
from prompt_jax.backbone.formats import LazyArrays, Stored, files
from prompt_jax.backbone.load import load_backbone, open_checkpoint
from prompt_jax.cli.main import main
from prompt_jax.doctor.examine import examine
from prompt_jax.errors import UserError
from prompt_jax.fit import estimate
from prompt_jax.model import quantised, sharding, t5
from prompt_jax.recipe import config
from prompt_jax.run.job import Run

CONFIG = t5.T5Config(64, 32, 4, 8, 64, 3, 2, dtype="float32")
STEP = {"int8": 1 / 127.5, "int4": 1 / 7.5, "float8_e4m3fn": 2**-3}  # of the largest value
ERRORS = {"int8": 0.02, "int4": 0.2, "float8_e4m3fn": 0.06}  # seen: 0.01, 0.11, 0.03


@pytest.fixture(scope="module")
def arrays():
    return weights.arrays_of(weights.init(CONFIG, 0))


def kernels(model) -> dict:
    flat = nnx.to_flat_state(nnx.state(model))
    return {"/".join(map(str, path)): v.get_value() for path, v in flat if path[-1] == "kernel"}


@pytest.mark.parametrize("weights_dtype", quantised.DTYPES)
def test_every_kernel_is_held_small_with_a_scale_per_layer_and_channel(arrays, weights_dtype):
    plain = weights.build(CONFIG, arrays)
    model = weights.build(CONFIG, arrays, "float32", None, weights_dtype)
    small, large = kernels(model), kernels(plain)
    assert len(small) == 7 + 11 + 1  # encoder: 4 + 3, decoder: 8 + 3, logits_dense
    for name, kernel in small.items():
        assert kernel.qvalue.dtype == jnp.dtype(weights_dtype)
        assert kernel.shape == large[name].shape and kernel.scale.dtype == jnp.float32
        assert kernel.scale.shape == (*kernel.shape[:-2], 1, kernel.shape[-1])
        again = np.asarray(kernel.qvalue, np.float32) * np.asarray(kernel.scale)
        limit = np.abs(large[name]).max(axis=-2, keepdims=True) * STEP[weights_dtype] / 2
        assert (np.abs(again - large[name]) <= 1.001 * limit).all(), name
    others = {
        x.dtype.name
        for p, v in nnx.to_flat_state(nnx.state(model))
        if p[-1] != "kernel"
        for x in [v.get_value()]
    }
    assert others == {"float32"}


def test_each_layer_is_read_once_and_alone(arrays):
    reads = []

    def stored(name, array):
        return Stored(array.shape, array.dtype, lambda box: reads.append(name) or array[box])

    lazy = LazyArrays({name: stored(name, array) for name, array in arrays.items()})
    weights.build(CONFIG, lazy, "float32", None, "int8")
    assert sorted(reads) == sorted(arrays)


def gradient_of(backbone) -> np.ndarray:
    """float32 [5, 16]: the gradient of some prompt on some tokens."""
    rng = np.random.default_rng(0)
    tokens = {name: rng.integers(3, 260, (4, 9)) for name in TEACHER_FORCING}
    prompt = rng.normal(0, 1, (5, 16)).astype(np.float32)
    return api.loss_and_prompt_grad(backbone, tokens, prompt)[1]


@pytest.mark.parametrize("weights_dtype", quantised.DTYPES)
def test_a_product_and_its_gradient_are_those_of_the_values_held(weights_dtype):
    x, kernel, upstream = (
        jax.random.normal(jax.random.key(i), s)
        for i, s in enumerate([(2, 3, 64), (64, 32), (2, 3, 32)])
    )
    held = quantised.quantise(kernel, weights_dtype)
    y, back = jax.vjp(lambda x: quantised.matmul(x, held), x)
    near = dequantised(held)
    np.testing.assert_allclose(y, x @ near, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(back(upstream)[0], upstream @ near.T, rtol=1e-4, atol=1e-4)
    for found, exact in ((y, x @ kernel), (back(upstream)[0], upstream @ kernel.T)):
        error = jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)
        assert 1e-3 < error < ERRORS[weights_dtype]


def test_the_prompts_gradient_stays_near_and_is_that_of_the_weights_held(tiny):
    source = f"files:{tiny / 'backbone'}"
    exact = load_backbone(source, "float32")
    near = load_backbone(source, "float32", weights_dtype="int8")
    assert exact.digest == near.digest
    found, wanted = gradient_of(near), gradient_of(exact)
    assert 1e-4 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < ERRORS["int8"]
    # Quantising changes the weights and nothing else: the same numbers, held in float32, agree.
    flat = [
        (path, v.replace(dequantised(v.get_value())) if path[-1] == "kernel" else v)
        for path, v in nnx.to_flat_state(nnx.state(near.model))
    ]
    plain = nnx.merge(weights.abstract(near.config)[0], nnx.from_flat_state(flat))
    same = gradient_of(dataclasses.replace(near, model=plain))
    np.testing.assert_allclose(found, same, rtol=1e-4, atol=1e-5 * np.abs(same).max())


def dequantised(kernel):
    return jnp.asarray(kernel.qvalue, jnp.float32) * kernel.scale


def test_the_backward_pass_keeps_no_dequantised_copy():
    """What a gradient through a scan needs beside the weights is far less than they in float32."""
    stacked = quantised.quantise(jax.random.normal(jax.random.key(0), (16, 256, 256)), "int8")

    def output(x, stacked):
        return jax.lax.scan(lambda x, k: (jnp.tanh(quantised.matmul(x, k)), None), x, stacked)[0]

    gradient = jax.jit(jax.grad(lambda x, stacked: output(x, stacked).sum()))
    memory = gradient.lower(jnp.ones((2, 256)), stacked).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 16 * 256 * 256 / 4


def test_on_a_mesh_values_and_scales_go_where_they_belong(arrays):
    shape = (1, 4, 2)
    mesh = sharding.MeshShape(**dict(zip(sharding.AXES, shape, strict=True))).build()
    places = sharding.params(mesh, weights.abstract(CONFIG)[1])
    alone = weights.build(CONFIG, arrays, "float32", None, "int8")
    model = weights.build(CONFIG, arrays, "float32", places, "int8")
    again = sharding.params(mesh, nnx.state(model))
    for x, place in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(again), strict=True):
        assert x.sharding.is_equivalent_to(place, x.ndim)
    wo = model.encoder.layers.mlp.wo.kernel.get_value()
    assert wo.qvalue.sharding.shard_shape(wo.shape) == (3, 64 // shape[2], 32 // shape[1])
    assert wo.scale.sharding.shard_shape(wo.scale.shape) == (3, 1, 32 // shape[1])
    for one, other in zip(*(jax.tree.leaves(nnx.state(m)) for m in (alone, model)), strict=True):
        np.testing.assert_array_equal(one, other)
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(nnx.state(model)))
    assert estimate.weight_bytes(CONFIG, mesh, "float32", "int8") == held


@pytest.mark.slow
def test_a_step_on_int8_moves_the_prompt_and_the_artefact_says_int8(tiny, tmp_path):
    bindings = [
        "Backbone.weights_dtype='int8'",
        "Train.mesh=@MeshShape()",
        "MeshShape.fsdp=2",
        "MeshShape.model=2",
    ]
    run = config.load("Train", [str(tiny / "run.gin")], bindings).root
    job = Run(run, epath.Path(tmp_path))
    assert {x.dtype.name for x in jax.tree.leaves(job.frozen)} == {"int8", "float32"}
    start = np.asarray(job.trainable.prompt.encoder[...])
    state, metrics = job.train_step(job.first_state(), job.frozen, job.batch(0)[0])
    assert float(metrics["grad_norm"]) > 0
    assert np.abs(np.asarray(state.trainable.prompt.encoder[...]) - start).max() > 0.01
    job.save_prompt(state, "last", None)
    manifest = json.loads((tmp_path / "prompt/last/manifest.json").read_text())
    assert manifest["run"]["weights_dtype"] == "int8" and manifest["run"]["dtype"] == "float32"


def test_an_unknown_dtype_is_refused_with_the_known_ones(tiny):
    known = "unknown; the known ones are int8, int4, float8_e4m3fn, none, and None"
    with pytest.raises(UserError, match=f"weights_dtype 'int2': {known}"):
        load_backbone("random:nano", weights_dtype="int2")
    with pytest.raises(UserError, match=known):
        config.load("Train", [str(tiny / "run.gin")], ["Backbone.weights_dtype='nf4'"])


def test_full_tuning_of_quantised_weights_is_refused(tiny):
    bindings = ["Backbone.weights_dtype='int8'", "Train.method=@FullTuning()"]
    with pytest.raises(UserError, match="'int8': FullTuning trains the weights themselves; bind"):
        config.load("Train", [str(tiny / "run.gin")], bindings)


def test_a_quantised_model_is_not_written_as_a_backbone(arrays):
    model = weights.build(CONFIG, arrays, "float32", None, "int8")
    with pytest.raises(UserError, match="kernel: is quantised; take weights_dtype None"):
        weights.arrays_of(model)


# Quantised copies on disk


@pytest.fixture(scope="module")
def copies(arrays, tmp_path_factory):
    """A folder with `start`, in our own format, and a quantised copy of it per dtype."""
    folder = tmp_path_factory.mktemp("copies")
    files.write(str(folder / "start"), CONFIG, arrays, None)
    for dtype in quantised.DTYPES:
        convert(f"files:{folder / 'start'}", "orbax", str(folder / dtype), dtype)
    return folder


@pytest.mark.parametrize("weights_dtype", quantised.DTYPES)
def test_a_copy_loads_as_what_a_run_would_make_of_its_source(copies, weights_dtype, monkeypatch):
    source = f"files:{copies / 'start'}"
    made = load_backbone(source, "float32", weights_dtype=weights_dtype)
    monkeypatch.setattr(quantised, "quantise", None)  # nothing is rounded again
    copy = load_backbone(f"orbax:{copies / weights_dtype}", "float32")
    assert copy.weights_dtype == made.weights_dtype == weights_dtype
    assert copy.digest == made.digest == load_backbone(source).digest
    one, other = nnx.state(made.model), nnx.state(copy.model)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_each_process_reads_only_its_part_of_a_copy(copies):
    reads = []

    def counted(one):
        def read(box):
            values = one.read(box)
            reads.append(values.nbytes)
            return values

        return Stored(one.shape, one.dtype, read)

    opened = open_checkpoint(f"orbax:{copies / 'int8'}")
    lazy = LazyArrays({name: counted(one) for name, one in opened.arrays.stored.items()})
    mesh = sharding.MeshShape(data=1, fsdp=4, model=2).build()
    places = sharding.params(mesh, weights.abstract(CONFIG)[1])
    model = weights.build(CONFIG, lazy, "float32", places, "int8")
    total = sum(one.dtype.itemsize * int(np.prod(one.shape)) for one in lazy.stored.values())
    assert sum(reads) == total  # one process holds all eight devices: everything, once
    query = model.encoder.layers.attention.query.kernel.get_value()
    assert query.qvalue.sharding.shard_shape(query.shape) == (3, 32 // 4, 32 // 2)
    assert query.scale.sharding.shard_shape(query.scale.shape) == (3, 1, 32 // 2)


def test_no_float_copy_of_a_kernel_is_ever_made(tmp_path):
    """numpy's memory while int8 is loaded stays near the size of the int8 model."""
    config = t5.T5Config(64, 96, 2, 48, 768, 12, 1)
    shapes = weights.t5x_shapes(config).items()
    files.write(str(tmp_path / "a"), config, {n: np.ones(s, np.float32) for n, s in shapes}, None)
    convert(f"files:{tmp_path / 'a'}", "orbax", str(tmp_path / "b"), "int8")
    opened = open_checkpoint(f"orbax:{tmp_path / 'b'}")
    tracemalloc.start()
    model = weights.build(config, opened.arrays, "bfloat16", None, "int8")
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = sum(x.nbytes for x in jax.tree.leaves(nnx.state(model)))
    assert held <= current < 1.1 * held
    assert peak < 1.2 * held


def test_a_copy_of_a_copy_has_the_same_bits(copies, tmp_path):
    done = convert(f"orbax:{copies / 'int8'}", "orbax", str(tmp_path / "again"))
    assert done["weights_dtype"] == "int8"
    one, other = (open_checkpoint(f"orbax:{f}") for f in (copies / "int8", tmp_path / "again"))
    assert one.quantised == other.quantised
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])


COPY = "a quantised copy, in int8, and"
REFUSED = {
    "hf": (["--format=hf"], "--format=hf: holds no int8 weights; take --format=orbax, or convert"),
    "t5x": (["--format=t5x"], "--format=t5x: holds no int8 weights"),
    "other": (
        ["--format=orbax", "--weights_dtype=int4"],
        f"{COPY} cannot be held in weights_dtype 'int4'; bind None, or give the backbone",
    ),
    "float": (["--format=orbax", "--weights_dtype=none"], f"{COPY} cannot be held in"),
    "unknown": (["--format=orbax", "--weights_dtype=int2"], "weights_dtype 'int2': unknown"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_copy_cannot_become_is_refused(copies, tmp_path, capsys, case):
    flags, message = REFUSED[case]
    output = tmp_path / "x"
    argv = ["convert", f"--backbone=orbax:{copies / 'int8'}", f"--output={output}", *flags]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not output.exists()


def test_weights_of_a_copy_are_not_trained(tiny, tmp_path):
    convert(f"files:{tiny / 'backbone'}", "orbax", str(tmp_path / "q"), "int8")
    bindings = [f"BACKBONE='orbax:{tmp_path / 'q'}'", "Train.method=@FullTuning()"]
    run = config.load("Train", [str(tiny / "run.gin")], bindings).root
    with pytest.raises(UserError, match="'int8': FullTuning trains the weights themselves; bind"):
        Run(run, epath.Path(tmp_path / "run"), jax.devices()[:1])
    lines = {line.check: line for line in examine(run, str(tmp_path / "run"))}
    assert lines["dtype"].status == "fail" and "FullTuning" in lines["dtype"].value


@pytest.mark.slow
def test_a_run_on_a_copy_is_a_run_on_its_source(tiny, tmp_path):
    """Same digest, so that a prompt of the one is accepted with the other; the same first step."""
    convert(f"files:{tiny / 'backbone'}", "orbax", str(tmp_path / "q"), "int8")
    results = []
    for bindings in (["Backbone.weights_dtype='int8'"], [f"BACKBONE='orbax:{tmp_path / 'q'}'"]):
        run = config.load("Train", [str(tiny / "run.gin")], bindings).root
        job = Run(run, epath.Path(tmp_path), jax.devices()[:1])
        state, _ = job.train_step(job.first_state(), job.frozen, job.batch(0)[0])
        job.save_prompt(state, "last", None)
        manifest = json.loads((tmp_path / "prompt/last/manifest.json").read_text())
        assert manifest["run"]["weights_dtype"] == "int8"
        results.append((job.facts, np.asarray(state.trainable.prompt.encoder[...]).tobytes()))
    assert results[0] == results[1]


DAMAGE = {
    "key": (lambda told: told.pop("source"), "'quantised' = .* is not as `convert` writes it"),
    "dtype": (lambda told: told.update(weights_dtype="int4"), "qvalue' holds int8; save it"),
    "contents": (lambda told: told.update(contents="0" * 64), "its values are not those that"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_copy_that_is_not_what_it_says_is_refused(copies, tmp_path, case):
    edit, message = DAMAGE[case]
    shutil.copytree(copies / "int8", tmp_path / "q")
    settings = json.loads((tmp_path / "q" / "config.json").read_text())
    edit(settings["quantised"])
    (tmp_path / "q" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        load_backbone(f"orbax:{tmp_path / 'q'}")
