"""`prompt-jax convert`: every format gives back the bits of every other."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import tensorstore
from flax import serialization
from safetensors.numpy import load_file

from prompt_jax.backbone.convert import convert
from prompt_jax.backbone.formats import Checkpoint, LazyArrays, files, hf, store, write
from prompt_jax.backbone.formats import orbax as orbax_layout
from prompt_jax.backbone.formats.files import SafeTensors
from prompt_jax.backbone.load import digest, open_checkpoint
from prompt_jax.backbone.weights import t5x_shapes
from prompt_jax.cli.main import main
from prompt_jax.errors import RunError, UserError
from prompt_jax.model.t5 import T5Config

TINY = T5Config(270, 8, 2, 3, 10, 2, 1)
TIED = {"logits_via_embedding": True, "scale_logits": True}
FAMILIES = {
    "t5_1_0": dataclasses.replace(TINY, mlp_activations=("relu",), **TIED),
    "t5_1_1": TINY,
    "umt5": dataclasses.replace(TINY, relpos_per_layer=True, num_buckets=16),
    "ul2": dataclasses.replace(TINY, mlp_activations=("silu", "linear")),
}
FORMATS = ("orbax", "hf", "t5x", "files")


def random_arrays(config, dtype="float32"):
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=s).astype(dtype) for n, s in t5x_shapes(config).items()}


def same_bits(one, other):
    assert sorted(one) == sorted(other)
    return all(
        one[n].dtype == other[n].dtype and one[n].tobytes() == other[n].tobytes() for n in one
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_through_every_format_gives_back_every_bit(family, tmp_path):
    dtype = ml_dtypes.bfloat16 if family in ("umt5", "t5_1_0") else "float32"
    arrays = random_arrays(FAMILIES[family], dtype)
    arrays["encoder/encoder_norm/scale"][0] = np.nan  # a bit pattern, not a number
    files.write(str(tmp_path / "start"), FAMILIES[family], arrays, "bytes")
    name = f"files:{tmp_path / 'start'}"
    for format in (*FORMATS, "orbax"):
        done = convert(name, format, str(tmp_path / f"{len(list(tmp_path.iterdir()))}"))
        name = f"{format}:{done['output']}"
        assert done["arrays"] == len(arrays) and done["dtypes"] == [np.dtype(dtype).name]
        read = open_checkpoint(name)
        assert same_bits(read.arrays, arrays)
        assert dataclasses.replace(read.config, dropout_rate=0.1) == FAMILIES[family]
        assert read.vocabulary == "bytes"
    assert not list(tmp_path.glob("*.partial"))


def test_what_t5x_wrote_is_written_again_to_the_byte(golden, tmp_path):
    """Except the optimizer's state, which is not ours: the index, all .zarray, all chunks."""
    theirs = golden / "t5x" / "v10_t5x" / "checkpoint_1000"
    ours = tmp_path / "checkpoint_1000"
    convert(f"t5x:{theirs}", "hf", str(tmp_path / "hf"))
    convert(f"hf:{tmp_path / 'hf'}", "t5x", str(ours))
    names = [p.relative_to(theirs) for p in theirs.rglob("*") if p.parent.name.startswith("targ")]
    assert len(names) > 80
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    read = [serialization.msgpack_restore((p / "checkpoint").read_bytes()) for p in (ours, theirs)]
    for tree in read:
        assert tree["version"] == 3 and tree["optimizer"]["state"]["step"] == 1000
    step = [tree["optimizer"]["state"]["step"] for tree in read]
    assert step[0].dtype == step[1].dtype and step[0].shape == step[1].shape
    assert plain(read[0]["optimizer"]["target"]) == plain(read[1]["optimizer"]["target"])


def plain(tree):
    if isinstance(tree, dict):
        return {name: plain(value) for name, value in tree.items()}
    return [int(x) for x in tree] if isinstance(tree, list | tuple | np.ndarray) else tree


def test_the_folder_for_transformers(golden, tmp_path):
    """The same arrays and, where both say something, the same settings as transformers wrote."""
    source = golden / "hf" / "t5_v10"
    convert(f"t5x:{golden}/t5x/v10_t5x/checkpoint_1000", "hf", str(tmp_path / "hf"))
    assert same_bits(
        load_file(tmp_path / "hf" / "model.safetensors"), load_file(source / "model.safetensors")
    )
    ours = json.loads((tmp_path / "hf" / "config.json").read_text())
    theirs = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": True}
    theirs["dropout_rate"] = 0.1  # T5X's files do not hold it
    assert {name: theirs[name] for name in ours} == ours
    assert not (tmp_path / "hf" / "tokenizer_config.json").exists()


def test_large_folders_are_written_in_shards(tmp_path, monkeypatch):
    arrays = random_arrays(TINY)
    files.write(str(tmp_path / "start"), TINY, arrays, None)
    monkeypatch.setattr(write, "SHARD", 4000)
    convert(f"files:{tmp_path / 'start'}", "hf", str(tmp_path / "hf"))
    parts = sorted(tmp_path.glob("hf/*.safetensors"))
    assert len(parts) > 3 and parts[0].name == f"model-00001-of-{len(parts):05d}.safetensors"
    assert not (tmp_path / "hf" / "model.safetensors").exists()
    assert same_bits(hf.open_hf(str(tmp_path / "hf")).arrays, arrays)
    index = json.loads((tmp_path / "hf" / hf.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in arrays.values())


def test_the_vocabulary_goes_along(tmp_path):
    (tmp_path / "words.model").write_bytes(b"pieces")
    files.write(str(tmp_path / "a"), TINY, random_arrays(TINY), str(tmp_path / "words.model"))
    name = f"files:{tmp_path / 'a'}"
    for format in FORMATS:
        convert(name, format, str(tmp_path / format))
        assert (tmp_path / format / "spiece.model").read_bytes() == b"pieces"
        words = open_checkpoint(f"{format}:{tmp_path / format}").vocabulary
        assert words == str(tmp_path / format / "spiece.model")


def test_large_arrays_are_chunked_and_read_in_parts(tmp_path):
    """Chunks part the longest axis evenly; what is written at a time is one of them."""
    array = np.arange(12 * 6, dtype=np.float32).reshape(12, 6)
    boxes = []
    source = store.Stored(array.shape, array.dtype, lambda box: boxes.append(box) or array[box])
    folder = store.Store(str(tmp_path))
    store.write_array(folder.spec, "x", source, piece=100)
    assert json.loads((tmp_path / "x" / ".zarray").read_text())["chunks"] == [4, 6]
    assert len(boxes) == 3 and sorted(p.name for p in (tmp_path / "x").iterdir())[1:] == [
        "0.0",
        "1.0",
        "2.0",
    ]
    opened = store.open_array(folder.spec, "x", "here")
    assert np.array_equal(store.stored(opened, "x", "here").whole(), array)
    assert store.chunk_shape((7, 3), 4, 8) == [1, 3]  # a prime axis: row by row


def test_an_output_in_use_is_refused(golden, tmp_path):
    name = f"hf:{golden}/hf/t5_v10"
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"used: holds files; give a new or an empty folder"):
        convert(name, "files", str(tmp_path / "used"))
    with pytest.raises(UserError, match=r"notes.txt: is a file; give a new"):
        convert(name, "files", str(tmp_path / "used" / "notes.txt"))
    with pytest.raises(UserError, match="--format=pt: unknown; the known ones are orbax, hf"):
        convert(name, "pt", str(tmp_path / "x"))
    with pytest.raises(UserError, match="only orbax and t5x are written to buckets"):
        convert(name, "hf", "gs://bucket/x")
    with pytest.raises(UserError, match="hf:/nowhere: no such folder"):
        convert("hf:/nowhere", "files", str(tmp_path / "x"))
    assert [p.name for p in tmp_path.iterdir()] == ["used"]
    (tmp_path / "empty").mkdir()
    convert(name, "files", str(tmp_path / "empty"))
    assert digest(open_checkpoint(f"files:{tmp_path / 'empty'}").arrays)


def test_what_reads_otherwise_is_not_left_behind(golden, tmp_path, monkeypatch):
    """A writer that loses a bit: the comparison says so, and nothing appears."""

    def careless(folder, source):
        arrays = {name: np.array(value) for name, value in source.arrays.items()}
        arrays["encoder/encoder_norm/scale"].view(np.uint32)[3] ^= 1
        write.write_files(folder, dataclasses.replace(source, arrays=LazyArrays.of(arrays)))

    monkeypatch.setitem(write.WRITERS, "files", careless)
    with pytest.raises(RunError, match="'encoder/encoder_norm/scale' was not read back as"):
        convert(f"hf:{golden}/hf/t5_v10", "files", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_transformers_has_no_t5_that_is_tied_and_unscaled(tmp_path):
    odd = dataclasses.replace(TINY, logits_via_embedding=True)
    source = Checkpoint(odd, LazyArrays.of(random_arrays(odd)), None)
    with pytest.raises(UserError, match=r"transformers has no T5 with .*; take another --format"):
        write.write_hf(str(tmp_path / "x"), source)


def test_the_command(golden, tmp_path, capsys):
    backbone = f"--backbone=hf:{golden}/hf/t5_v10"
    argv = ["convert", backbone, "--format=orbax", f"--output={tmp_path / 'o'}"]
    assert main([*argv, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["format"], done["arrays"], done["dtypes"]) == ("orbax", 47, ["float32"])
    assert main(argv) == 2
    assert "holds files" in capsys.readouterr().err


# Our Orbax layout


@pytest.fixture(scope="module")
def orbax(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    files.write(str(folder / "start"), TINY, random_arrays(TINY), None)
    convert(f"files:{folder / 'start'}", "orbax", str(folder / "o"))
    return folder / "o"


def test_orbax_itself_reads_our_layout(orbax):
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(orbax / "weights")
    arrays = random_arrays(TINY)
    found = tree["decoder"]["layers_0"]["encoder_decoder_attention"]["out"]["kernel"]
    assert np.array_equal(found, arrays["decoder/layers_0/encoder_decoder_attention/out/kernel"])
    assert sum(1 for _ in serialization.to_state_dict(tree)) == 3  # embedder, encoder, decoder


def test_large_arrays_of_our_layout_are_chunked(tmp_path, monkeypatch):
    """What a process reads of an array that is shared out is its chunks, not all of it."""
    monkeypatch.setattr(orbax_layout, "CHUNK", 600)
    arrays = random_arrays(TINY)
    files.write(str(tmp_path / "start"), TINY, arrays, None)
    convert(f"files:{tmp_path / 'start'}", "orbax", str(tmp_path / "o"))
    spec, _ = store.Store(str(tmp_path / "o")).arrays("weights")
    chunks = store.open_array(spec, "token_embedder.embedding", "o").chunk_layout.read_chunk.shape
    assert 0 < chunks[0] * chunks[1] * 4 <= 600 < arrays["token_embedder/embedding"].nbytes
    assert same_bits(open_checkpoint(f"orbax:{tmp_path / 'o'}").arrays, arrays)


def test_a_damaged_orbax_folder_is_refused(orbax, tmp_path):
    shutil.copytree(orbax, tmp_path / "o")
    shutil.rmtree(tmp_path / "o" / "weights")
    with pytest.raises(UserError, match=r"'decoder.decoder_norm.scale' is missing \(and"):
        open_checkpoint(f"orbax:{tmp_path / 'o'}")
    (tmp_path / "o" / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json: no such file; give a folder of `convert`"):
        open_checkpoint(f"orbax:{tmp_path / 'o'}")
    (tmp_path / "o" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match=r"config.json: not in our own format"):
        open_checkpoint(f"orbax:{tmp_path / 'o'}")


@pytest.mark.parametrize("apart", [1, 1 << 20])
def test_parts_of_a_safetensors_file_are_read_alone(tmp_path, monkeypatch, apart):
    monkeypatch.setattr(files, "APART", apart)
    arrays = {"a": np.arange(60, dtype=np.float32).reshape(12, 5)}
    arrays["b"] = arrays["a"].astype(ml_dtypes.bfloat16)
    from safetensors.numpy import save_file

    save_file(arrays, tmp_path / "x.safetensors")
    for name, one in SafeTensors(tmp_path / "x.safetensors").stored.items():
        assert (one.shape, one.dtype) == (arrays[name].shape, arrays[name].dtype)
        for box in ((slice(2, 7), slice(0, 5)), (slice(0, 12), slice(1, 3)), (slice(3, 4),) * 2):
            assert np.array_equal(one.read(box), arrays[name][box])
        turned = one.transposed().read((slice(1, 4), slice(0, 12)))
        assert np.array_equal(turned, arrays[name].T[1:4])


def test_tensorstore_is_the_one_that_writes(tmp_path):
    """bfloat16 stays bfloat16 in zarr."""
    array = np.ones((2, 3), ml_dtypes.bfloat16)
    store.write_array(store.Store(str(tmp_path)).spec, "x", store.Stored.of(array))
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{tmp_path}/x/"}}
    assert tensorstore.open(spec).result().dtype.name == "bfloat16"
