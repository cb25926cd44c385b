"""Where checkpoints come from: scanned layers, buckets, the hub's cache, torch's files; and what is
refused of them. See also test_checkpoint.py and test_checkpoint_t5x.py."""

import json
import re
import shutil
import socket
import sys

import ml_dtypes
import numpy as np
import pytest
import tensorstore
from flax import serialization, traverse_util
from safetensors.numpy import load_file, save_file

from prompt_jax.backbone.convert import convert
from prompt_jax.backbone.formats import hf, stacked, t5x
from prompt_jax.backbone.formats.store import Store, read_file
from prompt_jax.backbone.load import digest, open_checkpoint
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.backbone.weights import t5x_shapes
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

TINY = T5Config(48, 8, 2, 3, 10, 3, 2, relpos_per_layer=True)
LAYERS = {"encoder": 3, "decoder": 2}
NORM = "target.encoder.encoder.pre_mlp_layer_norm.scale"


def random_arrays(config, dtype="float32"):
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=s).astype(dtype) for n, s in t5x_shapes(config).items()}


def same(one, other):
    return sorted(one) == sorted(other) and all(np.array_equal(one[n], other[n]) for n in one)


# T5X's scanned layout, as its scalable_t5 names and shapes it


def scanned(arrays, axis):
    """`encoder/layers_i/…` -> `encoder/encoder/…`, with an axis of layers."""
    out = {n: a for n, a in arrays.items() if "/layers_" not in n}
    for name in (n for n in arrays if "/layers_0/" in n):
        side = name.partition("/")[0]
        layers = [arrays[name.replace("layers_0", f"layers_{i}")] for i in range(LAYERS[side])]
        out[name.replace("layers_0", side)] = np.stack(layers, axis=axis)
    return out


def write_legacy(folder, arrays, chunks=None, **leaf):
    """T5X's msgpack file; norms stay in it, all other arrays become zarr folders."""
    tree = {}
    for name, array in arrays.items():
        if name.endswith("scale"):
            tree[name] = array
            continue
        path = f"target.{name.replace('/', '.')}/"
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{folder}/{path}"}}
        if chunks:
            spec["metadata"] = {"chunks": [min(chunks, n) for n in array.shape]}
        shape, dtype = list(array.shape), array.dtype.name
        store = tensorstore.open(spec, create=True, dtype=dtype, shape=shape).result()
        store.write(array).result()
        told = {"dtype": dtype, "metadata": {"shape": shape}, **leaf}
        tree[name] = {"driver": "zarr", "kvstore": {"driver": "file", "path": path}, **told}
    content = {"target": traverse_util.unflatten_dict(tree, sep="/"), "state": {"step": 7}}
    folder.mkdir(parents=True, exist_ok=True)
    data = serialization.msgpack_serialize({"version": 3, "optimizer": content})
    (folder / "checkpoint").write_bytes(data)


@pytest.mark.parametrize(("axis", "dtype"), [(1, "float32"), (1, "bfloat16"), (0, "float32")])
def test_scanned_layers_read_as_if_they_lay_apart(tmp_path, axis, dtype):
    arrays = random_arrays(TINY, dtype)
    stack = scanned(arrays, axis)
    shape = stack["decoder/decoder/relpos_bias/rel_embedding"].shape
    assert shape == ((2, 2, 32) if axis == 1 else (2, 2, 32)[::1])
    write_legacy(tmp_path, stack, chunks=4)
    read = t5x.open_t5x(str(tmp_path), None)
    assert read.config == TINY
    assert same(read.arrays, arrays)
    assert read.arrays["encoder/layers_2/mlp/wi_0/kernel"].dtype == np.dtype(dtype)
    box = (slice(2, 5), slice(1, 9))
    part = read.arrays.stored["encoder/layers_1/mlp/wi_0/kernel"].read(box)
    assert np.array_equal(part, arrays["encoder/layers_1/mlp/wi_0/kernel"][box])


def test_a_scanned_array_is_decoded_once_for_all_its_layers(tmp_path, monkeypatch):
    write_legacy(tmp_path, scanned(random_arrays(TINY), 1))
    reads = []
    plain = t5x.stored

    def counted(array, name, where):
        one = plain(array, name, where)
        note = lambda box: reads.append(name) or one.read(box)  # noqa: E731
        return type(one)(one.shape, one.dtype, note)

    monkeypatch.setattr(t5x, "stored", counted)
    dict(t5x.open_t5x(str(tmp_path), None).arrays)
    assert len(reads) == len(set(reads)) > 20
    assert stacked._Latest.boxes is None  # and nothing stays in memory


def test_scanned_and_apart_are_the_same_model(tmp_path):
    arrays = random_arrays(TINY)
    write_legacy(tmp_path / "scan", scanned(arrays, 1))
    convert(f"t5x:{tmp_path / 'scan'}", "t5x", str(tmp_path / "apart"))
    assert (tmp_path / "apart" / "target.encoder.layers_2.mlp.wo.kernel").is_dir()
    one, other = (open_checkpoint(f"t5x:{tmp_path / n}") for n in ("scan", "apart"))
    assert digest(one.arrays) == digest(other.arrays) == digest(arrays)


def test_broken_scanned_layouts_are_refused(tmp_path):
    arrays = scanned(random_arrays(TINY), 1)

    def refused(edit, message):
        broken = dict(arrays)
        edit(broken)
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        write_legacy(tmp_path / "x", broken)
        with pytest.raises(UserError, match=message):
            t5x.open_t5x(str(tmp_path / "x"), None)

    wo, norm = "encoder/encoder/mlp/wo/kernel", "encoder/encoder/pre_mlp_layer_norm/scale"
    refused(lambda a: a.pop(norm), f"'{NORM}' is missing")
    refused(
        lambda a: a.update({norm: np.ones((9, 3), np.float32)}), r"shape \[9, 3\]; .*\[8, layers\]"
    )
    refused(lambda a: a.update({wo: a[wo][:, :2]}), r"'target.encoder.encoder.mlp.wo.*3 layers")
    refused(
        lambda a: a.update({"encoder/layers_1/mlp/wo/kernel": a[wo][:, 1]}),
        r"'target.encoder.encoder.mlp.wo.kernel' and '.*layers_1.mlp.wo.kernel' are there twice",
    )
    refused(lambda a: a.pop(wo), r"'target.encoder.layers_0.mlp.wo.kernel' is missing \(and 2 more")


# Families that names alone do not tell apart


def test_a_ul2_has_to_be_named(tmp_path, monkeypatch):
    monkeypatch.setattr(t5x, "UL2_SHAPE", (8, 2, 3))
    config = T5Config(48, 8, 2, 3, 10, 1, 1)
    write_legacy(tmp_path, random_arrays(config))
    with pytest.raises(UserError, match=r"may be a UL2; say \?family=ul2, or \?family=t5_1_1"):
        t5x.open_t5x(str(tmp_path), None)
    assert t5x.open_t5x(str(tmp_path), "t5_1_1_lm_adapted").config == config
    for name in ("ul2", "flan_ul2"):
        assert t5x.open_t5x(str(tmp_path), name).config.mlp_activations == ("silu", "linear")


# One array renamed, missing, of a wrong shape, truncated, of another dtype

FIVE = ("renamed", "missing", "shape", "truncated", "dtype")
ZARR = "target.decoder.layers_1.mlp.wo.kernel"
HF = "decoder.block.1.layer.2.DenseReluDense.wo.weight"
T5X_SAYS = {
    "renamed": r"'target.decoder.layers_1.mlp.wo.kernels' is unknown, no T5 has it",
    "missing": f"'{ZARR}' is missing; copy the checkpoint again",
    "shape": rf"'{ZARR}' has shape \[64, 64\], the model needs \[128, 64\]",
    "truncated": f"'{ZARR}' is incomplete; copy the checkpoint again",
    "dtype": f"'{ZARR}' holds dtype float16, the file 'checkpoint' says float32",
}
HF_SAYS = {
    "renamed": f"'{HF}s' is unknown, no T5 has it",
    "missing": f"'{HF}' is missing; copy the checkpoint again",
    "shape": rf"'{HF}' has shape \[64, 64\], the model needs \[64, 128\]",
    "truncated": r"model.safetensors: not a whole safetensors file",
    "dtype": f"'{HF}' holds float16 and the others float32; save all in one precision",
}


def refused(backbone, pattern, tmp_path, capsys) -> str:
    """What `convert` says: one line that fits, exit code 2, and nothing is written."""
    output = tmp_path / "out"
    assert main(["convert", f"--backbone={backbone}", "--format=files", f"--output={output}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(pattern, said), said
    assert not output.exists()
    return said


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("case", FIVE)
def test_five_faults_of_a_t5x_checkpoint(golden, tmp_path, capsys, case):
    folder = tmp_path / "checkpoint_1000"
    shutil.copytree(golden / "t5x" / "v10_t5x" / "checkpoint_1000", folder)
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    wo = content["optimizer"]["target"]["decoder"]["layers_1"]["mlp"]["wo"]
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{folder}/{ZARR}/"}}
    if case == "renamed":
        wo["kernels"] = wo.pop("kernel")
        (folder / ZARR).rename(folder / f"{ZARR}s")
    elif case == "missing":
        del wo["kernel"]
    elif case == "truncated":
        data = (folder / ZARR / "0.0").read_bytes()
        (folder / ZARR / "0.0").write_bytes(data[: len(data) // 2])
    else:
        dtype = "float16" if case == "dtype" else "float32"
        rows = 64 if case == "shape" else 128
        if case == "shape":
            wo["kernel"]["metadata"]["shape"] = [64, 64]
        tensorstore.open(
            spec, create=True, delete_existing=True, dtype=dtype, shape=[rows, 64]
        ).result().write(np.ones((rows, 64), dtype)).result()
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    assert str(folder) in refused(f"t5x:{folder}", T5X_SAYS[case], tmp_path, capsys)


def test_bytes_in_the_other_order_are_refused(golden, tmp_path):
    folder = tmp_path / "checkpoint_1000"
    shutil.copytree(golden / "t5x" / "v10_t5x" / "checkpoint_1000", folder)
    text = (folder / ZARR / ".zarray").read_text()
    (folder / ZARR / ".zarray").write_text(text.replace("<f4", ">f4"))
    with pytest.raises(UserError, match=f"'{ZARR}' holds >f4; save it as float32"):
        open_checkpoint(f"t5x:{folder}")


@pytest.mark.parametrize("case", FIVE)
def test_five_faults_of_a_transformers_folder(golden, tmp_path, capsys, case):
    folder = tmp_path / "hf"
    shutil.copytree(golden / "hf" / "t5_v10", folder)
    path = folder / "model.safetensors"
    arrays = load_file(path)
    if case == "renamed":
        arrays[f"{HF}s"] = arrays.pop(HF)
    elif case == "missing":
        del arrays[HF]
    elif case == "shape":
        arrays[HF] = arrays[HF][:, :64].copy()
    elif case == "dtype":
        arrays[HF] = arrays[HF].astype(np.float16)
    save_file(arrays, path)
    if case == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    assert str(folder) in refused(f"hf:{folder}", HF_SAYS[case], tmp_path, capsys)


def test_what_transformers_keeps_in_float32_is_no_fault(golden, tmp_path):
    folder = tmp_path / "hf"
    shutil.copytree(golden / "hf" / "t5_v10", folder)
    arrays = load_file(folder / "model.safetensors")
    half = {n: a if ".wo." in n else a.astype(ml_dtypes.bfloat16) for n, a in arrays.items()}
    save_file(half, folder / "model.safetensors")
    read = open_checkpoint(f"hf:{folder}").arrays
    assert {a.dtype.name for a in read.values()} == {"float32", "bfloat16"}
    half["shared.weight"] = arrays["shared.weight"].astype(np.float16)
    save_file(half, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"'shared.weight' holds float16 and the others bfloat16"):
        open_checkpoint(f"hf:{folder}")


# The hub's cache


@pytest.fixture
def cached(golden, tmp_path, monkeypatch):
    """A repository in the hub's cache, as huggingface_hub lays it out; the process is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    base = tmp_path / "models--someone--tiny-t5"
    snapshot = base / "snapshots" / ("a" * 40)
    shutil.copytree(golden / "hf" / "t5_v10", snapshot)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("a" * 40)
    return snapshot


def test_a_name_on_the_hub_is_read_from_its_cache(golden, cached):
    read = open_checkpoint("hf:someone/tiny-t5")
    assert read.folder == str(cached)
    assert same(read.arrays, hf.open_hf(str(golden / "hf" / "t5_v10")).arrays)
    (cached / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json: no such file"):
        open_checkpoint("hf:someone/tiny-t5")
    with pytest.raises(
        UserError, match="hf:someone/other-t5: cannot be downloaded from the hub"
    ) as error:
        open_checkpoint("hf:someone/other-t5")
    one_line(error)


# torch's files (that they are read: tests/parity/test_transformers.py)


def test_bin_files_need_torch(golden, tmp_path, monkeypatch):
    shutil.copytree(golden / "hf" / "t5_v10", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").rename(tmp_path / "hf" / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pytorch_model.bin: .* by torch only; install torch"):
        open_checkpoint(f"hf:{tmp_path / 'hf'}")
    (tmp_path / "hf" / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no model.safetensors and no pytorch_model.bin"):
        open_checkpoint(f"hf:{tmp_path / 'hf'}")


# Buckets


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of an emulator of Google Cloud Storage, on loopback."""
    from gcp_storage_emulator.server import create_server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="tiny-models")
    server.start()
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anyone")
    yield "gs://tiny-models"
    server.stop()


def test_a_t5x_checkpoint_in_a_bucket(bucket, golden, tmp_path):
    source = f"t5x:{golden}/t5x/v10_t5x/checkpoint_1000"
    done = convert(source, "t5x", f"{bucket}/models/checkpoint_1000")
    read = open_checkpoint(f"t5x:{done['output']}")
    assert read.folder is None
    assert same(read.arrays, open_checkpoint(source).arrays)
    Store(done["output"]).write("spiece.model", b"pieces")
    words = open_checkpoint(f"t5x:{done['output']}").vocabulary
    assert words is not None and read_file(words) == b"pieces"
    with pytest.raises(
        UserError, match=r"vocabulary 'gs://tiny-models/none.model': cannot be read"
    ):
        Vocabulary.from_file(f"{bucket}/none.model")
    with pytest.raises(UserError, match=r"checkpoint_1000: holds files; give an empty folder"):
        convert(source, "t5x", done["output"])
    with pytest.raises(UserError, match="gs://tiny-models/models: no T5X checkpoint there"):
        open_checkpoint(f"t5x:{bucket}/models")
    with pytest.raises(UserError, match="hf: reads local folders; copy it, or convert it"):
        open_checkpoint(f"hf:{bucket}/models")
    convert(f"t5x:{done['output']}", "files", str(tmp_path / "local"))
    assert json.loads((tmp_path / "local" / "config.json").read_text())["family"] == "t5_1_0"
