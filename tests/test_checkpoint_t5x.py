"""The reader of T5X's checkpoints, legacy and Orbax; see also test_checkpoint.py."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest
import tensorstore
from flax import serialization

from prompt_jax.backbone.formats import files, hf, t5x
from prompt_jax.backbone.weights import t5x_shapes
from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

TINY = T5Config(48, 8, 2, 3, 10, 2, 1, dropout_rate=0.0)
T5_1_0 = {"mlp_activations": ("relu",), "logits_via_embedding": True, "scale_logits": True}
FAMILIES = {
    "t5_1_0": dataclasses.replace(TINY, **T5_1_0),
    "t5_1_1": TINY,
    "umt5": dataclasses.replace(TINY, relpos_per_layer=True),
}
EMBEDDING = "token_embedder/embedding"
shapes_of = functools.cache(t5x_shapes)


def random_arrays(config, dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = shapes_of(config).items()
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes}


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def write_t5x(folder, arrays, outside=()):
    """A legacy T5X checkpoint; the arrays named in `outside` become zarr folders."""
    tree = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = write_zarr(folder, name, array) if name in outside else array
    content = {"version": 3, "optimizer": {"target": tree, "state": {"step": 7}}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))


def write_zarr(folder, name, array):
    path = f"target.{name.replace('/', '.')}/"
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{folder}/{path}"}}
    shape, dtype = list(array.shape), array.dtype.name
    store = tensorstore.open(spec, create=True, dtype=dtype, shape=shape).result()
    store.write(array).result()
    return {"driver": "zarr", "dtype": dtype, "kvstore": {"driver": "file", "path": path}}


@pytest.fixture
def legacy(golden, tmp_path):
    """A copy of the golden T5X checkpoint that may be broken."""
    source = golden / "t5x" / "v10_t5x" / "checkpoint_1000"
    shutil.copytree(source, tmp_path / "checkpoint_1000")
    return tmp_path / "checkpoint_1000"


@pytest.mark.parametrize("family", [None, "t5_1_0"])
def test_golden_t5x_legacy(golden, family):
    """The copy has no optimizer state at all, so reading it touches none."""
    checkpoint = t5x.open_t5x(str(golden / "t5x" / "v10_t5x" / "checkpoint_1000"), family)
    assert checkpoint.config == T5Config(1100, 64, 4, 16, 128, 2, 2, **T5_1_0)
    peer = hf.open_hf(str(golden / "hf" / "t5_v10"))
    assert same(checkpoint.arrays, peer.arrays)


@pytest.mark.parametrize("layout", ["v11_t5x", "v11_orbax"])
def test_golden_t5_1_1_in_both_layouts(shared, layout):
    folder = shared / "golden" / "t5x" / layout / "checkpoint_1000"
    checkpoint = t5x.open_t5x(str(folder), None)
    assert checkpoint.config == T5Config(1104, 64, 4, 16, 128, 2, 2)
    peer = hf.open_hf(str(shared / "golden" / "hf" / "t5_v11"))
    assert same(checkpoint.arrays, peer.arrays)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_t5x_gives_back_every_family(family, dtype, tmp_path):
    config = dataclasses.replace(FAMILIES[family], dropout_rate=T5Config.dropout_rate)
    arrays = random_arrays(config, dtype)
    write_t5x(tmp_path, arrays, outside=(EMBEDDING, "encoder/layers_0/mlp/wo/kernel"))
    checkpoint = t5x.open_t5x(str(tmp_path), None)
    assert checkpoint.config == config
    assert same(checkpoint.arrays, arrays)
    assert checkpoint.arrays[EMBEDDING].dtype == np.dtype(dtype)
    assert t5x.open_t5x(str(tmp_path), family).config == config


def broken_t5x(folder, edit):
    arrays = random_arrays(TINY)
    edit(arrays)
    write_t5x(folder, arrays)
    return str(folder)


T5X_REFUSALS = {
    "unknown": (
        lambda a: a.update({"encoder/prompt/prompt": np.zeros((3, 8), np.float32)}),
        "'target.encoder.prompt.prompt' is unknown",
    ),
    "unexpected": (
        lambda a: a.update({"encoder/layers_0/mlp/wi/kernel": a["encoder/layers_0/mlp/wo/kernel"]}),
        "the arrays fit no family of .*; put a config.json there",
    ),
    "missing": (
        lambda a: a.pop("decoder/layers_0/mlp/wo/kernel"),
        "'target.decoder.layers_0.mlp.wo.kernel' is missing",
    ),
    "missing embedding": (
        lambda a: a.pop(EMBEDDING),
        "'target.token_embedder.embedding' is missing",
    ),
    "shape": (
        lambda a: a.update({"encoder/encoder_norm/scale": np.ones(9, np.float32)}),
        r"'target.encoder.encoder_norm.scale' has shape \[9\], the model needs \[8\]",
    ),
    "dtype": (
        lambda a: a.update({"encoder/encoder_norm/scale": np.ones(8, np.int32)}),
        "'target.encoder.encoder_norm.scale' holds int32",
    ),
}


@pytest.mark.parametrize("case", T5X_REFUSALS)
def test_t5x_refuses(tmp_path, case):
    edit, message = T5X_REFUSALS[case]
    with pytest.raises(UserError, match=message):
        t5x.open_t5x(broken_t5x(tmp_path, edit), None)


def test_the_family_must_fit_the_arrays(legacy):
    with pytest.raises(UserError, match=r"not those of family=mt5; try \?family=t5_1_0"):
        t5x.open_t5x(str(legacy), "mt5")
    with pytest.raises(UserError, match="family=bart: unknown family; the known ones are t5_1_0"):
        t5x.open_t5x(str(legacy), "bart")


def test_a_config_beside_the_arrays_counts(golden, legacy, tmp_path):
    shutil.copy(golden / "hf" / "t5_v10" / "config.json", legacy / "config.json")
    assert (
        t5x.open_t5x(str(legacy), None).config == hf.open_hf(str(golden / "hf" / "t5_v10")).config
    )
    with pytest.raises(UserError, match=r"config.json: says what the model is; remove \?family"):
        t5x.open_t5x(str(legacy), "t5_1_0")
    config = dataclasses.replace(TINY, max_distance=64, dropout_rate=T5Config.dropout_rate)
    files.write(str(tmp_path / "ours"), config, random_arrays(config), None)
    write_t5x(tmp_path / "theirs", random_arrays(config))
    shutil.copy(tmp_path / "ours" / "config.json", tmp_path / "theirs")
    assert t5x.open_t5x(str(tmp_path / "theirs"), None).config == config


def test_heads_may_stand_apart_as_scalable_t5_saves_them(shared):
    """[D, H, K] for query, key and value, [H, K, D] for out; the values are v11_t5x's."""
    apart = t5x.open_t5x(str(shared / "cases" / "t5x_scalable" / "checkpoint_1000"), None)
    joined = t5x.open_t5x(str(shared / "golden" / "t5x" / "v11_t5x" / "checkpoint_1000"), None)
    assert apart.config == joined.config
    for name in joined.arrays:
        np.testing.assert_array_equal(apart.arrays[name], joined.arrays[name], err_msg=name)
    name = "encoder/layers_0/attention/query/kernel"
    box = (slice(3, 9), slice(5, 41))  # across heads
    np.testing.assert_array_equal(
        apart.arrays.stored[name].read(box), joined.arrays.stored[name].read(box)
    )


def test_the_file_of_a_checkpoint_names_its_folder(legacy):
    with pytest.raises(UserError, match=f"a file; give its folder: t5x:{legacy}"):
        t5x.open_t5x(str(legacy / "checkpoint"), None)


def test_a_damaged_t5x_checkpoint_is_refused(legacy):
    name = "target.encoder.layers_0.mlp.wo.kernel"
    (legacy / name / "0.0").unlink()
    checkpoint = t5x.open_t5x(str(legacy), None)
    with pytest.raises(UserError, match=f"'{name}' is incomplete; copy the checkpoint again"):
        checkpoint.arrays["encoder/layers_0/mlp/wo/kernel"]
    shutil.rmtree(legacy / name)
    with pytest.raises(UserError, match=f"'{name}' is missing or damaged"):
        t5x.open_t5x(str(legacy), None)
    data = (legacy / "checkpoint").read_bytes()
    for broken in (data[:-9], b"", serialization.msgpack_serialize({"version": 3})):
        (legacy / "checkpoint").write_bytes(broken)
        with pytest.raises(UserError, match="not a whole T5X checkpoint"):
            t5x.open_t5x(str(legacy), None)


def test_a_truncated_chunk_is_refused(legacy):
    chunk = legacy / "target.token_embedder.embedding" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"'target.token_embedder.embedding' is incomplete"):
        t5x.open_t5x(str(legacy), None).arrays[EMBEDDING]


def test_the_folder_above_the_steps_is_answered_with_a_step(legacy):
    with pytest.raises(UserError, match=r"give one of its steps, such as t5x:.*checkpoint_1000"):
        t5x.open_t5x(str(legacy.parent), None)
    with pytest.raises(UserError, match="/nowhere/else: no T5X checkpoint there"):
        t5x.open_t5x("/nowhere/else", None)
