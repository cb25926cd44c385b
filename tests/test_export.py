"""Prompts out and in: every format by its own reader, and what no format can hold is refused.

PEFT itself runs in tests/parity/test_export.py; here its folders are only written and read.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import tensorstore as ts
from etils import epath
from flax import serialization

import prompt_jax as pj
from prompt_jax.backbone.load import load_backbone
from prompt_jax.cli.main import main
from prompt_jax.errors import RunError, UserError
from prompt_jax.export import check, fresh, npy, orbax, peft, publish, t5x
from prompt_jax.export import formats as exports
from prompt_jax.export import run as export
from prompt_jax.export.consumed import padded
from prompt_jax.export.formats import About
from prompt_jax.export.inputs import Inputs, random_inputs
from prompt_jax.prompt.artefact import Prompt, load_prompt, save_prompt
from prompt_jax.run import exports as exports_of_runs

ROWS, WIDTH = 3, 16
PLAIN = ("npy", "peft", "t5x")
SUFFIX = {"npy": ".npy", "peft": "", "t5x": "", "orbax": ""}
MODULES = {"npy": npy, "peft": peft, "t5x": t5x, "orbax": orbax}
ABOUT = About("hf:some/model", None, 7)


def rows(length: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(length, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def backbone(tiny):
    return load_backbone(f"files:{tiny}/backbone", "float32")


@pytest.fixture(scope="module")
def save(tiny, backbone, tmp_path_factory):
    """A function that writes an artefact for the tiny backbone and returns its path."""

    def write(decoder: int = 0, **changes) -> str:
        folder = tmp_path_factory.mktemp("artefact") / "p"
        manifest = {
            "method": "SoftPrompt",
            "settings": {"class": "SoftPrompt", "length": ROWS},
            "placement": "prefix",
            "visibility": {"input": True, "prompt": "all"},
            "backbone": {"name": backbone.name, "digest": backbone.digest},
            "tokenizer": backbone.vocabulary.digest,
            "task": f"{tiny}/toy.train.jsonl",
            "metric": None,
            "step": 7,
            "seed": 0,
            "run": {"input_length": 28, "target_length": 4},
        }
        arrays = {"encoder": rows()} | ({"decoder": rows(decoder, 1)} if decoder else {})
        save_prompt(folder, arrays, manifest | changes)
        return str(folder)

    return write


@pytest.fixture(scope="module")
def plain(save) -> str:
    return save()


@pytest.mark.parametrize("name", MODULES)
def test_what_is_written_is_read(name, plain, tmp_path):
    path = tmp_path / f"out{SUFFIX[name]}"
    MODULES[name].write(path, load_prompt(plain), ABOUT)
    found = MODULES[name].read(str(path))
    np.testing.assert_array_equal(found.array, rows())
    assert found.array.dtype == np.float32


def test_npy_is_as_prompt_tuning_releases_it(plain, shared, tmp_path):
    """The released files and ours have the same header but for the shape."""
    released = shared / "data" / "prompts" / "t5_1_1_lm100k_base" / "sst2.npy"
    prompt = npy.read(str(released))
    assert prompt.array.shape == (100, 768)
    npy.write(tmp_path / "again.npy", prompt, ABOUT)
    assert (tmp_path / "again.npy").read_bytes() == released.read_bytes()
    bare = tmp_path / "encoder.prompt.prompt.prompt"  # as its trainer leaves them
    shutil.copy(released, bare)
    np.testing.assert_array_equal(npy.read(str(bare)).array, prompt.array)


def test_peft_is_as_peft_writes_it(shared, tmp_path):
    """One submodule: PEFT's own files and ours are equal."""
    golden = shared / "golden" / "peft" / "v11_prompt_tuning_1sub"
    backbone = load_backbone(f"hf:{shared}/golden/hf/t5_v11", "float32")
    about = About("hf:hf/t5_v11", backbone.config)
    peft.write(tmp_path / "out", peft.read(str(golden)), about)
    told, wanted = (json.loads((f / peft.CONFIG).read_text()) for f in (tmp_path / "out", golden))
    assert told == wanted and list(told) == list(wanted)
    ours, theirs = (
        safetensors.numpy.load_file(f / peft.WEIGHTS) for f in (tmp_path / "out", golden)
    )
    assert list(ours) == list(theirs) == ["prompt_embeddings"]
    np.testing.assert_array_equal(ours["prompt_embeddings"], theirs["prompt_embeddings"])


@pytest.mark.parametrize("kind", ["prompt_tuning", "prompt_tuning_1sub"])
def test_golden_peft_prompts_are_t5xs(shared, kind):
    golden = shared / "golden"
    prompt = peft.read(str(golden / "peft" / f"v11_{kind}"))
    with np.load(golden / "t5x" / "v11_prompted.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(prompt.array, file["prompt"])


GOLDEN_PEFT = ["prompt_tuning", "prompt_tuning_1sub", "lora", "ia3", "prefix_tuning"]


@pytest.mark.parametrize("kind", GOLDEN_PEFT)
def test_golden_peft_adapters_give_pefts_logits(shared, kind, tmp_path):
    """A prefix as PEFT runs it: the same two parts of its table in both layers of the decoder."""
    golden = shared / "golden"
    export.import_prompt(
        source=str(golden / "peft" / f"v11_{kind}"),
        format="peft",
        output=str(tmp_path / "p"),
        backbone=f"hf:{golden}/hf/t5_v11",
        unverified=True,
    )
    prompt = load_prompt(tmp_path / "p")
    backbone = load_backbone(f"hf:{golden}/hf/t5_v11", "float32")
    with np.load(golden / "peft" / f"v11_{kind}_outputs.npz", allow_pickle=False) as file:
        names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
        batch = {name: file[f"basic/{name}"] for name in names}
        theirs = file["basic/logits"]
    real = batch["decoder_target_tokens"] > 0
    ours = pj.logits(backbone, batch, prompt)
    np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=2e-5)


def broken_adapter(folder: Path, prompt: str, **changes) -> str:
    peft.write(folder, load_prompt(prompt), ABOUT)
    config = json.loads((folder / peft.CONFIG).read_text())
    (folder / peft.CONFIG).write_text(json.dumps(config | changes))
    return str(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"task_type": "CAUSAL_LM"}, "task_type is 'CAUSAL_LM'"),
        ({"modules_to_save": ["lm_head"]}, "lm_head of the model were tuned too"),
        ({"num_virtual_tokens": 4}, rf"is \[3, {WIDTH}\], adapter_config.json says 4 x 1 rows"),
        ({"num_virtual_tokens": None}, "num_virtual_tokens is not a whole number"),
        ({"peft_type": "NEW"}, "NEW is not a prompt, it is none of PROMPT_TUNING"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "depend on the task's number"),
    ],
)
def test_adapters_that_are_not_ours_to_read(plain, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        peft.read(broken_adapter(tmp_path / "a", plain, **changes))


def test_an_adapter_in_a_pickle_is_not_opened(plain, tmp_path):
    folder = Path(broken_adapter(tmp_path / "a", plain))
    (folder / peft.WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match="a pickle, which is never opened"):
        peft.read(str(folder))


def test_t5x_has_the_layout_of_t5x(plain, shared, tmp_path):
    """Index, leaf and zarr metadata have the keys and values of a checkpoint that T5X wrote."""
    folder = tmp_path / "checkpoint_7"
    t5x.write(folder, load_prompt(plain), ABOUT)
    golden = shared / "golden" / "t5x" / "v11_t5x" / "checkpoint_1000"
    ours, theirs = (
        serialization.msgpack_restore((f / "checkpoint").read_bytes()) for f in (folder, golden)
    )
    assert ours.keys() == theirs.keys() and ours["version"] == theirs["version"]
    assert ours["optimizer"].keys() == theirs["optimizer"].keys()
    states = ours["optimizer"]["state"], theirs["optimizer"]["state"]
    assert states[0].keys() == states[1].keys()
    assert states[0]["step"] == 7 and states[0]["step"].dtype == states[1]["step"].dtype
    leaf = ours["optimizer"]["target"]["encoder"]["prompt"]["prompt"]["prompt"]
    kernel = theirs["optimizer"]["target"]["encoder"]["relpos_bias"]["rel_embedding"]
    assert kernel["kvstore"]["path"] == "target.encoder.relpos_bias.rel_embedding/"
    assert leaf["kvstore"].pop("path") == "target.encoder.prompt.prompt.prompt/"
    del kernel["kvstore"]["path"]
    shape = [ROWS, WIDTH]
    metadata = kernel["metadata"] | {"chunks": shape, "shape": shape}
    assert leaf == kernel | {"metadata": metadata}
    name = "target.encoder.relpos_bias.rel_embedding"
    zarr = json.loads((golden / name / ".zarray").read_text()) | {"chunks": shape, "shape": shape}
    assert json.loads((folder / t5x.DOTTED / ".zarray").read_text()) == zarr
    assert sorted(p.name for p in (folder / t5x.DOTTED).iterdir()) == [".zarray", "0.0"]


def test_the_prompt_of_a_whole_t5x_checkpoint(shared, plain, tmp_path):
    """Its one array is found among all others; a checkpoint without it says so."""
    golden = shared / "golden" / "t5x" / "v11_t5x" / "checkpoint_1000"
    folder = tmp_path / "checkpoint_1000"
    t5x.write(folder, load_prompt(plain), ABOUT)
    index = serialization.msgpack_restore((golden / "checkpoint").read_bytes())
    with pytest.raises(UserError, match="has no target/encoder/prompt/prompt/prompt"):
        t5x.read(str(golden))
    own = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    index["optimizer"]["target"]["encoder"]["prompt"] = own["optimizer"]["target"]["encoder"][
        "prompt"
    ]
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    found = t5x.read(str(folder))
    np.testing.assert_array_equal(found.array, rows())
    assert found.manifest == {"step": 1000}
    (folder / t5x.DOTTED / "0.0").unlink()
    with pytest.raises(UserError, match="is damaged"):
        t5x.read(str(folder))


def test_the_prompt_of_a_t5x_checkpoint_by_orbax(shared, tmp_path):
    with pytest.raises(UserError, match="has no target/encoder/prompt/prompt/prompt"):
        t5x.read(str(shared / "golden" / "t5x" / "v11_orbax" / "checkpoint_1000"))
    store = {"driver": "ocdbt", "base": f"file://{tmp_path}/state/", "path": f"{t5x.DOTTED}/"}
    spec = {"driver": "zarr", "kvstore": store}
    ts.open(spec, create=True, dtype="float32", shape=[ROWS, WIDTH]).result().write(rows()).result()
    np.testing.assert_array_equal(t5x.read(str(tmp_path)).array, rows())


def test_orbax_holds_all_of_an_artefact(save, tmp_path):
    path = save(decoder=2, placement="after_bos", visibility={"input": False, "prompt": "causal"})
    prompt = load_prompt(path)
    orbax.write(tmp_path / "out", prompt, ABOUT)
    found = orbax.read(str(tmp_path / "out"))
    assert found.manifest == prompt.manifest
    np.testing.assert_array_equal(found.arrays["decoder"], rows(2, 1))
    shutil.rmtree(tmp_path / "out" / "manifest")
    with pytest.raises(UserError, match="has no item 'manifest'"):
        orbax.read(str(tmp_path / "out"))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(
    "changes, what",
    [
        ({"decoder": 2}, "2 decoder rows"),
        ({"placement": "after_bos"}, "placement 'after_bos'"),
        ({"placement": "suffix"}, "placement 'suffix'"),
        ({"visibility": {"input": False, "prompt": "all"}}, "a visibility that hides the input"),
        ({"visibility": {"input": True, "prompt": "causal"}}, "the visibility 'causal'"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(save, tmp_path, name, changes, what):
    out = tmp_path / f"out{SUFFIX[name]}"
    with pytest.raises(UserError, match=f"has {what}.* --format={name} cannot express"):
        export.export_prompt(prompt=save(**changes), format=name, output=str(out))
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_checked_in_a_fresh_process_and_recorded(plain, tmp_path, capsys):
    """T5X's format, with the forward pass of the task's own rows."""
    out = tmp_path / "deep" / "checkpoint_7"
    manifest = load_prompt(plain).manifest
    argv = ["export", f"--prompt={plain}", "--format=t5x", f"--output={out}", "--json"]
    name = manifest["backbone"]["name"]
    assert main([*argv, f"--backbone={name}"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "report.json").read_text())
    assert told["verified"] is True and told["manifest"] == manifest
    assert set(told["consumer"]) == {"tensorstore", "flax", "msgpack"}
    assert (told["rows_max_abs_diff"], told["logits_max_abs_diff"]) == (0.0, 0.0)
    assert told["inputs"].endswith("toy.train.jsonl, validation, 4 examples")
    assert told["logits_largest"] > 0.1 and told["logits_compared"] > 1000
    assert [path.name for path in out.parent.iterdir()] == ["checkpoint_7"]
    assert main(argv) == 2
    assert "exists; remove it" in capsys.readouterr().err


def test_there_and_back(save, tmp_path, backbone):
    """An artefact out by Orbax and in again is the same, its checks recorded in its manifest."""
    path = save(decoder=2, placement="suffix")
    out, back = tmp_path / "out", tmp_path / "back"
    told = export.export_prompt(prompt=path, format="orbax", output=str(out))
    assert told["verified"] and set(told["consumer"]) == {"orbax-checkpoint", "tensorstore"}
    export.import_prompt(
        source=str(out), format="orbax", backbone=backbone.name, output=str(back), unverified=True
    )
    before, after = load_prompt(path), load_prompt(back)
    assert after.manifest.pop("imported")["verified"] is False
    assert after.manifest == before.manifest
    np.testing.assert_array_equal(after.arrays["decoder"], before.arrays["decoder"])


def test_an_imported_npy_is_an_artefact_of_its_backbone(tmp_path, backbone, capsys):
    np.save(tmp_path / "p.npy", rows())
    argv = ["import", f"--from={tmp_path}/p.npy", "--format=npy", f"--backbone={backbone.name}"]
    assert main([*argv, f"--output={tmp_path}/a", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    prompt = load_prompt(tmp_path / "a")
    assert prompt.manifest["imported"] == told
    assert told["verified"] and told["consumer"] == {"numpy": np.__version__}
    assert told["inputs"].startswith("random ids")
    assert prompt.manifest["backbone"] == {"name": backbone.name, "digest": backbone.digest}
    assert prompt.manifest["tokenizer"] == backbone.vocabulary.digest
    np.testing.assert_array_equal(prompt.array, rows())
    np.save(tmp_path / "wide.npy", np.zeros((3, 8), np.float32))
    argv[1] = f"--from={tmp_path}/wide.npy"
    assert main([*argv, f"--output={tmp_path}/b"]) == 2
    assert "is 8 wide" in capsys.readouterr().err


def test_other_rows_at_the_reader_are_a_failure(plain, tmp_path, monkeypatch):
    """A writer that loses a bit is found out, and nothing is left behind."""

    def write(path, prompt, about):
        wrong = Prompt({"encoder": np.nextafter(prompt.array, np.float32(np.inf))}, {}, "")
        np.save(path, wrong.array)

    monkeypatch.setattr(npy, "write", write)
    with pytest.raises(RunError, match=r"numpy reads other values .* nothing is kept"):
        export.export_prompt(prompt=plain, format="npy", output=str(tmp_path / "x.npy"))
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_fails_is_a_failure(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"numpy cannot read '.*x.npy' as npy \(.+\)"):
        fresh.consume(tmp_path / "scratch", "npy", tmp_path / "x.npy")


def test_other_logits_are_a_failure(plain, backbone):
    """The comparison itself: PEFT's part is played by logits that are off by more than rounding."""
    prompt = load_prompt(plain)
    batch = {
        name: np.full((1, 2), 5, np.int32)
        for name in ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    }
    logits = pj.logits(backbone, batch, prompt)
    found = {"encoder": prompt.array, "logits": logits + 1e-6}
    told = check.compare_logits("peft", found, prompt, backbone, batch)
    assert 0 < told["logits_max_abs_diff"] < 1e-5 and told["logits_of"] == "peft"
    with pytest.raises(RunError, match=r"logits of peft differ from ours by 0\.1"):
        check.compare_logits("peft", found | {"logits": logits + 0.1}, prompt, backbone, batch)


def test_another_tokenizer_at_the_reader_is_told(backbone):
    """Of what it makes of the texts; the prompt is as good as it was."""
    texts, words = ("yes", "no"), backbone.vocabulary
    inputs = Inputs(random_inputs(backbone), "two texts", texts)
    ids = padded([[*words.encode(text), 1] for text in texts])
    found = {"logits": np.zeros(1), "token_ids": ids}
    same = check.compare_tokens(found, backbone, inputs)
    assert same == {"tokenizer": "the same ids for 2 texts"}
    ids[1, 0] += 1
    other = check.compare_tokens(found, backbone, inputs)
    assert other == {"tokenizer": "OTHER ids for 1 of 2 texts, as 'no'"}


def test_a_missing_consumer_names_its_extra(plain, tmp_path, monkeypatch):
    find = exports.importlib.util.find_spec
    monkeypatch.setattr(
        exports.importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
    )
    out = tmp_path / "adapter"
    with pytest.raises(UserError, match=r"peft, which is not installed; .*prompt-jax\[parity\]"):
        export.export_prompt(prompt=plain, format="peft", output=str(out))
    assert not out.exists()
    told = export.export_prompt(prompt=plain, format="peft", output=str(out), unverified=True)
    assert told["verified"] is False and "consumer" not in told
    assert json.loads((out / "report.json").read_text())["verified"] is False
    np.testing.assert_array_equal(peft.read(str(out)).array, rows())


PREFIX = ["EXPORT_TO=peft", "Train.method=@PrefixTuning()"]


@pytest.mark.parametrize(
    "bindings, message",
    [
        (
            ["EXPORT_TO=peft", "SoftPrompt.decoder_length=2"],
            "--gin.EXPORT_TO=peft: Train.export_to = 'peft': the prompt has 2 decoder rows, which "
            "'peft' cannot express; take orbax",
        ),
        (["EXPORT_TO=('orbax', 'npz')"], "'npz' is not a format; did you mean npy?"),
        (
            ["EXPORT_TO=npy", "Train.method=@LoRA()"],
            "query/a inside the layers, which 'npy' cannot",
        ),
        (
            PREFIX,
            "keys of the encoder's attention, which PEFT's prefixes never reach, which 'peft'",
        ),
        (
            [*PREFIX, "PrefixTuning.attentions=('decoder', 'cross')"],
            "keys of the attention to the encoder, which PEFT throws away, which 'peft'",
        ),
        (
            [*PREFIX, "PrefixTuning.attentions=('decoder',)"],
            "keys at no position (PrefixTuning.positions), where PEFT's stand before the text",
        ),
        (
            ["EXPORT_TO=npy", "Train.method=@FullTuning()"],
            "the method trains the model, and leaves",
        ),
    ],
)
def test_a_recipes_format_that_cannot_hold_its_prompt_is_refused_first(
    tiny, tmp_path, capsys, bindings, message
):
    argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}/run"]
    assert main([*argv, *(f"--gin.{binding}" for binding in bindings)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_finished_run_has_the_formats_of_its_recipe(tiny, tmp_path, capsys):
    """Once; a prompt that has changed is exported again."""
    argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}/run"]
    argv += ["--gin.EXPORT_TO=npy", "--gin.TRAIN_STEPS=1", "--gin.EVAL_PERIOD=1"]
    assert main(argv) == 0
    out = tmp_path / "run" / "export" / "npy.npy"
    assert f"  {out}" in capsys.readouterr().err
    best = load_prompt(tmp_path / "run" / "prompt" / "best")
    np.testing.assert_array_equal(np.load(out), best.array)
    record = json.loads(out.with_name("npy.report.json").read_text())
    assert record["verified"] and record["manifest"] == best.manifest
    before = out.stat().st_mtime_ns
    settings = SimpleNamespace(targets=("npy",))
    exports_of_runs.export_finished(settings, epath.Path(tmp_path / "run"), print)
    assert out.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--format=pefd", "--output=x"], "--format=pefd: unknown; did you mean peft?"),
        (["--format=npy", "--output=x"], "a path that ends in '.npy'"),
    ],
)
def test_mistakes_of_export(plain, capsys, argv, message):
    assert main(["export", f"--prompt={plain}", *argv]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "source, message",
    [("nowhere", "--from=nowhere: does not exist"), ("gs://b/p", "copy it to a local folder")],
)
def test_mistakes_of_import(capsys, source, message):
    argv = ["import", f"--from={source}", "--format=npy", "--backbone=nano", "--output=x"]
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_a_copy_has_its_record_last(tmp_path, monkeypatch):
    """What a bucket gets: there is no rename, so that the record says that all is there."""
    source = tmp_path / "a"
    (source / "sub").mkdir(parents=True)
    for name in ("report.json", "one", "sub/two"):
        (source / name).write_text(name)
    order = []
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda p, b: (order.append(p.name), write(p, b))[1])
    publish.copy_with_record_last(source, tmp_path / "b")
    assert order == ["one", "two", "report.json"]
    assert (tmp_path / "b" / "sub" / "two").read_text() == "sub/two"
