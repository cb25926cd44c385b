"""Backbones by name: dtype, digest, vocabulary, and the refusals of a wrong string."""

import hashlib

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from prompt_jax.backbone import load as backbone
from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import files
from prompt_jax.backbone.load import Backbone, digest, load_backbone, read_arrays
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.errors import UserError
from prompt_jax.model import sizes, t5

SMALL = t5.T5Config(300, 8, 2, 3, 10, 1, 1)
V10 = ("hf:{}/hf/t5_v10", "t5x:{}/t5x/v10_t5x/checkpoint_1000")
V11 = (
    "hf:{}/hf/t5_v11",
    "t5x:{}/t5x/v11_t5x/checkpoint_1000",
    "t5x:{}/t5x/v11_orbax/checkpoint_1000?family=t5_1_1",
)


@pytest.fixture(scope="module")
def loaded(golden) -> Backbone:
    return load_backbone(V10[0].format(golden), dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_and_activations_have_the_dtype_asked_for(golden, dtype):
    one = load_backbone(V10[1].format(golden), dtype=dtype)
    assert one.config.dtype == one.model.config.dtype == dtype
    assert {x.dtype.name for x in jax.tree.leaves(nnx.state(one.model))} == {dtype}
    assert one.vocabulary is None


def test_the_model_holds_the_arrays(golden, loaded):
    config, arrays = read_arrays(V10[0].format(golden))
    held = weights.arrays_of(loaded.model)
    assert held.keys() == arrays.keys() == weights.t5x_shapes(config).keys()
    assert all(np.array_equal(held[name], arrays[name]) for name in arrays)


def test_digests_agree_across_formats_and_precisions(golden, loaded):
    for name in V10:
        for dtype in ("float32", "bfloat16"):
            assert load_backbone(name.format(golden), dtype=dtype).digest == loaded.digest


def test_digests_agree_for_t5_1_1_in_three_formats(shared):
    digests = {digest(read_arrays(name.format(shared / "golden"))[1]) for name in V11}
    assert len(digests) == 1


def test_our_folder_keeps_the_digest(golden, loaded, tmp_path):
    config, arrays = read_arrays(V10[0].format(golden))
    rounded = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    files.write(str(tmp_path), config, rounded, "bytes")
    again = load_backbone(f"files:{tmp_path}")
    assert again.digest == loaded.digest
    assert again.vocabulary is not None and again.vocabulary.size == 259


def test_the_digest_is_what_its_docstring_says():
    """Written out by hand: 1.0 is 0x3f80 in bfloat16, 2**-20 more rounds away, 3.0 is 0x4040."""
    arrays = {"b": np.array([[1.0 + 2**-20, 3.0]], np.float32), "a/x": np.ones(1, np.float32)}
    expected = hashlib.sha256(b"a/x 1\n\x80\x3fb 1x2\n\x80\x3f\x40\x40").hexdigest()
    assert digest(arrays) == expected
    transposed = {"b": np.asfortranarray(arrays["b"]), "a/x": arrays["a/x"]}
    assert digest(transposed) == expected


@pytest.mark.parametrize("edit", ["value", "shape", "name"])
def test_the_digest_tells_models_apart(edit):
    arrays = {"x": np.ones((2, 3), np.float32)}
    other = {
        "value": {"x": np.ones((2, 3), np.float32) * 1.01},
        "shape": {"x": np.ones((3, 2), np.float32)},
        "name": {"y": np.ones((2, 3), np.float32)},
    }
    assert digest(arrays) != digest(other[edit])


def test_random_weights_are_a_function_of_the_seed(monkeypatch):
    monkeypatch.setitem(sizes.SIZES, "nano", SMALL)
    one, same, other = (
        load_backbone(name, vocabulary="bytes")
        for name in ("random:nano", "random:nano?seed=0", "random:nano?seed=1")
    )
    assert one.digest == same.digest != other.digest
    assert other.name == "random:nano?seed=1"
    assert one.config.vocab_size == 300


REFUSALS = {
    "": "backbone '': unknown; the known forms are nano, nano_span, mnano, hf:NAME",
    "t5-small": "backbone 't5-small': unknown; the known forms are nano",
    "google/t5-small": "unknown; did you mean hf:google/t5-small[?] the known forms are nano",
    "orbax:/x": "/x/config.json: no such file; give a folder of `convert`",
    "tfds:/x": "backbone 'tfds:/x': unknown; the known forms are nano, .* orbax:DIR",
    "nano:x": "backbone 'nano:x': unknown",
    "hf:": "backbone 'hf:': names no backbone",
    "nano?seed=1": r"backbone 'nano\?seed=1': unknown",
    "hf:/x?family=t5_1_0": "has the unknown option 'family'; known: ignore",
    "t5x:/x?familly=mt5": "has the unknown option 'familly'; known: family",
    "random:huge": "backbone 'random:huge': unknown size; the known ones are nano, ",
    "random:nano?seed=-1": "backbone 'random:nano.seed=-1': the seed '-1' is not a whole number",
    "random:nano?seed=": "backbone 'random:nano.seed=': the seed '' is not a whole number",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_name_is_refused(name):
    with pytest.raises(UserError, match=REFUSALS[name]) as error:
        load_backbone(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_dtypes_are_refused_before_anything_is_read(dtype):
    with pytest.raises(UserError, match=f"dtype '{dtype}': .* use bfloat16 or float32"):
        load_backbone("hf:/nowhere", dtype=dtype)


def test_nano_and_its_vocabulary_come_from_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(backbone.SHIPPED, "nano", tmp_path)
    monkeypatch.setitem(sizes.SIZES, "nano", SMALL)
    with pytest.raises(UserError, match="nano: not in this installation"):
        load_backbone("nano")
    assert load_backbone("random:nano").vocabulary is None
    arrays = weights.arrays_of(weights.init(SMALL, 3))
    files.write(str(tmp_path / "nano"), SMALL, arrays, "bytes")
    nano, control = load_backbone("nano"), load_backbone("random:nano?seed=3")
    assert nano.digest == control.digest
    assert nano.vocabulary is not None and control.vocabulary is not None
    assert nano.vocabulary.digest == control.vocabulary.digest == Vocabulary.bytes().digest


def test_mnano_comes_from_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(backbone, "REPOSITORY", tmp_path)
    monkeypatch.setitem(backbone.SHIPPED, "mnano", tmp_path)
    with pytest.raises(
        UserError, match=r"mnano: not in this .* a checkout that has it, or make it by `pretrain`"
    ):
        load_backbone("mnano")
    arrays = weights.arrays_of(weights.init(SMALL, 3))
    files.write(str(tmp_path / "mnano"), SMALL, arrays, "bytes")
    assert load_backbone("mnano").digest == digest(arrays)


def test_a_vocabulary_larger_than_the_embedding_is_refused(shared, golden):
    path = str(shared / "data" / "spm" / "t5.spiece.model")
    with pytest.raises(UserError, match=r"has 32100 ids and 'hf:.*' only 1100 embeddings"):
        load_backbone(V10[0].format(golden), vocabulary=path)
    with pytest.raises(UserError, match=r"vocabulary '/nowhere.model': cannot be read"):
        load_backbone(V10[0].format(golden), vocabulary="/nowhere.model")
    assert load_backbone(V10[0].format(golden), vocabulary="bytes").vocabulary is not None


def test_random_weights_with_a_vocabulary_of_their_own():
    """As many embeddings as it has ids, to the next multiple of 128."""
    backbone = load_backbone("random:nano?seed=0&vocabulary=bytes")
    assert backbone.config.vocab_size == 384
    assert backbone.vocabulary is not None and backbone.vocabulary.path is None
    with pytest.raises(UserError, match=r"vocabulary 'gone\.model': cannot be read"):
        load_backbone("random:nano?vocabulary=gone.model")
