"""Weights go from files to devices array by array, in the precision kept, each part read once."""

import hashlib
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from prompt_jax.backbone import load as backbone
from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import LazyArrays, Stored, digests, files
from prompt_jax.backbone.load import load_backbone
from prompt_jax.errors import UserError
from prompt_jax.model import sharding
from prompt_jax.model.t5 import T5Config

CONFIG = T5Config(264, 16, 4, 8, 32, 3, 2)
WO = "encoder/layers_1/mlp/wo/kernel"


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    shapes = weights.t5x_shapes(CONFIG).items()
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("model"))
    files.write(folder, CONFIG, arrays, "bytes")
    return folder


def watched(arrays) -> tuple[LazyArrays, list]:
    """Lazy arrays, and a list that fills with (name, box) as they are read."""
    reads = []

    def stored(name, array):
        return Stored(array.shape, array.dtype, lambda box: reads.append((name, box)) or array[box])

    return LazyArrays({name: stored(name, array) for name, array in arrays.items()}), reads


def same(one, other):
    return sorted(one) == sorted(other) and all(np.array_equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_array_is_read_once_and_kept_in_the_dtype_asked_for(arrays, dtype):
    lazy, reads = watched(arrays)
    model = weights.build(CONFIG, lazy, dtype)
    assert sorted(name for name, _ in reads) == sorted(arrays)
    rounded = {name: array.astype(dtype) for name, array in arrays.items()}
    assert {x.dtype.name for x in jax.tree.leaves(nnx.state(model))} == {dtype}
    assert same(weights.lazy_arrays(model), rounded)
    part = weights.lazy_arrays(model).stored[WO].read((slice(3, 7), slice(0, 5)))
    assert np.array_equal(part, rounded[WO][3:7, :5])


@pytest.mark.parametrize("shape", [(1, 4, 2), (8, 1, 1), (2, 1, 4)])
def test_with_a_mesh_each_array_is_read_once_and_goes_where_it_belongs(arrays, shape):
    mesh = sharding.MeshShape(**dict(zip(sharding.AXES, shape, strict=True))).build()
    places = sharding.params(mesh, weights.abstract(CONFIG)[1])
    lazy, reads = watched(arrays)
    model = weights.build(CONFIG, lazy, "float32", places)
    assert sorted(name for name, _ in reads) == sorted(arrays)  # once, on however many devices
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    for path, place in nnx.to_flat_state(places):
        assert flat[path].get_value().sharding == place.get_value(), path
    assert same(weights.lazy_arrays(model), arrays)


def test_a_process_reads_the_parts_of_its_own_devices(arrays):
    """Two of four devices: the box around their columns, of each layer once."""
    lazy, reads = watched(arrays)
    parts = [(lazy.stored[f"encoder/layers_{i}/mlp/wo/kernel"], i) for i in range(3)]
    fetch = weights.reader(parts, TwoOfFour(), (3, 32, 16), np.dtype(np.float32))
    rows, columns = slice(0, 32), slice(4, 12)
    assert reads == []
    for index in TwoOfFour().addressable_devices_indices_map((3, 32, 16)).values():
        assert np.array_equal(fetch(index), np.stack([arrays[n] for n in WOS])[index])
    assert reads == [(name, (rows, columns)) for name in WOS]


WOS = [f"encoder/layers_{i}/mlp/wo/kernel" for i in range(3)]


class TwoOfFour:
    def addressable_devices_indices_map(self, shape):
        return {n: (slice(None), slice(None), slice(4 * n, 4 * n + 4)) for n in (1, 2)}


def test_a_loaded_backbone_is_sharded_and_has_the_digest_of_the_whole(folder):
    whole = load_backbone(f"files:{folder}", "float32")
    mesh = sharding.MeshShape(data=1, fsdp=2, model=4).build()
    parts = load_backbone(f"files:{folder}", "float32", mesh=mesh)
    assert parts.digest == whole.digest
    kernel = parts.model.encoder.layers.attention.query.kernel.get_value()
    assert kernel.addressable_shards[0].data.shape == (3, 8, 8)


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_on_the_host_there_is_one_array_beside_the_model(tmp_path, stored):
    """numpy's memory while 30 equal layers are read; JAX's CPU device takes the buffers over."""
    config = T5Config(64, 96, 2, 48, 192, 30, 1)
    shapes = weights.t5x_shapes(config).items()
    arrays = {name: np.ones(shape, stored) for name, shape in shapes}
    files.write(str(tmp_path), config, arrays, None)
    del arrays
    opened = files.open_folder(str(tmp_path))
    kept = 2 * sum(int(np.prod(one.shape)) for one in opened.arrays.stored.values())
    largest = 2 * 30 * 96 * 192
    tracemalloc.start()
    model = weights.build(config, opened.arrays, "bfloat16")
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.encoder.layers.mlp.wo.kernel.shape == (30, 192, 96)
    assert kept <= current < kept + 0.5 * largest  # the device holds these very buffers
    assert peak < kept + 1.5 * largest


@pytest.mark.parametrize("shape", [(5, 7), (130, 300), (300, 130), (4,), (2, 3, 4)])
@pytest.mark.parametrize("pair", ["float32 float32", "float32 bfloat16", "bfloat16 bfloat16"])
def test_copies_by_tiles_are_copies(shape, pair):
    source, target = pair.split()
    values = np.random.default_rng(0).normal(size=shape).astype(source)
    for view in (values, values.T):
        out = np.zeros(view.shape, target)
        weights.copy_into(out, view)
        assert np.array_equal(out, view.astype(target))


# Digests


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LEAST", 1)
    return tmp_path / "cache" / "prompt_jax" / "digests"


def test_a_digest_is_computed_once_until_a_file_changes(cache, tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return hashlib.sha256(bytes(len(calls))).hexdigest()

    folder = tmp_path / "model"
    (folder / "inside").mkdir(parents=True)
    file = folder / "inside" / "0.0"
    file.write_bytes(b"abc")
    first = digests.cached_digest("files:model", str(folder), compute)
    assert digests.cached_digest("files:model", str(folder), compute) == first
    assert len(calls) == 1 and len(list(cache.iterdir())) == 1
    file.write_bytes(b"abcd")
    assert digests.cached_digest("files:model", str(folder), compute) != first
    assert digests.cached_digest("t5x:model", str(folder), compute) != first
    assert len(calls) == 3
    digests.cached_digest("t5x:gs://bucket/model", None, compute)
    digests.cached_digest("t5x:gs://bucket/model", None, compute)
    assert len(calls) == 5
    for path in cache.iterdir():
        path.write_text("half of one")
    digests.cached_digest("files:model", str(folder), compute)
    assert len(calls) == 6


def test_a_home_that_cannot_be_written_only_costs_time(cache, tmp_path):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.touch()  # a file where the folder should be
    (tmp_path / "x").write_bytes(b"abc")
    assert digests.cached_digest("files:x", str(tmp_path), lambda: "0" * 64) == "0" * 64


def test_small_backbones_leave_nothing_behind(cache, folder, monkeypatch):
    monkeypatch.setattr(digests, "LEAST", 64 << 20)
    load_backbone(f"files:{folder}")
    assert not cache.exists()


def test_other_weights_in_the_same_place_have_another_digest(cache, arrays, tmp_path):
    files.write(str(tmp_path / "m"), CONFIG, arrays, "bytes")
    one = load_backbone(f"files:{tmp_path / 'm'}").digest
    assert load_backbone(f"files:{tmp_path / 'm'}", "float32").digest == one
    assert len(list(cache.iterdir())) == 1
    changed = {**arrays, WO: -arrays[WO]}
    files.write(str(tmp_path / "m"), CONFIG, changed, "bytes")
    assert load_backbone(f"files:{tmp_path / 'm'}").digest != one


def test_bfloat16_on_disk_is_not_widened(tmp_path, arrays):
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    files.write(str(tmp_path), CONFIG, half, None)
    opened = files.open_folder(str(tmp_path))
    assert {one.dtype.name for one in opened.arrays.stored.values()} == {"bfloat16"}
    assert same(weights.lazy_arrays(load_backbone(f"files:{tmp_path}").model), half)


def test_of_several_processes_only_the_first_reads_all_for_the_digest(folder, monkeypatch):
    """The others are told."""
    opened = backbone.open_checkpoint(f"files:{folder}")
    total, said = load_backbone(f"files:{folder}").digest, []
    tell = lambda value: said.append(value) or np.frombuffer(bytes.fromhex(total), np.uint8)  # noqa: E731
    monkeypatch.setattr(backbone.multihost_utils, "broadcast_one_to_all", tell)
    assert backbone.agreed_digest("x", opened) == total and said[0].tobytes().hex() == total
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(backbone, "digest", None)  # nothing is hashed
    assert backbone.agreed_digest("x", opened) == total and not said[1].any()


def test_weights_that_are_not_finite_are_refused_every_time(tiny, tmp_path, monkeypatch):
    """Also where the digest of the very files could have been remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LEAST", 1)
    config, arrays = backbone.read_arrays(f"files:{tiny}/backbone")
    name = "encoder/layers_0/mlp/wo/kernel"
    broken = np.array(arrays[name])
    broken[0, 0] = np.inf
    files.write(str(tmp_path / "broken"), config, {**arrays, name: broken}, "bytes")
    for _ in range(2):
        with pytest.raises(UserError, match=f"'{name}' holds NaN or infinity; copy it again"):
            backbone.load_backbone(f"files:{tmp_path}/broken")
