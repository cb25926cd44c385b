"""Readers of checkpoints: names and shapes are matched strictly, values arrive unchanged."""

import dataclasses
import functools
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prompt_jax.backbone import load
from prompt_jax.backbone.formats import files, hf, names, write
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
QUERY = "encoder.block.1.layer.0.SelfAttention.q.weight"


shapes_of = functools.cache(t5x_shapes)


def random_arrays(config, dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = shapes_of(config).items()
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes}


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def write_hf(folder, config, arrays, **settings):
    """A folder as transformers writes it, from T5X's arrays."""
    table = names.hf_table(config.logits_via_embedding, config.relpos_per_layer)
    flips = {names.source_name(name, table): name for name in arrays}
    rows = names.match(
        {source: transposed_shape(source, arrays[name], table) for source, name in flips.items()},
        shapes_of(config),
        table,
        "test",
    )
    weights = {
        origin.name: np.ascontiguousarray(arrays[n].T if origin.transpose else arrays[n])
        for n, origin in rows.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    raw = {
        "model_type": "umt5" if config.relpos_per_layer else "t5",
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "num_heads": config.num_heads,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": "relu" if len(config.mlp_activations) == 1 else "gated-gelu",
        "tie_word_embeddings": config.logits_via_embedding,
        "dropout_rate": 0.0,
    }
    (folder / "config.json").write_text(json.dumps(raw | settings))
    return weights


def transposed_shape(source, array, table):
    rule = next(r for r in table if names.compiled(r.source).fullmatch(source))
    return array.shape[::-1] if rule.transpose else array.shape


# Names


@pytest.mark.parametrize("family", FAMILIES)
def test_every_array_of_every_family_has_one_name_in_every_format(family):
    config = FAMILIES[family]
    hf_table = names.hf_table(config.logits_via_embedding, config.relpos_per_layer)
    for table in (hf_table, names.T5X_TABLE, names.FILES_TABLE):
        sources = [names.source_name(name, table) for name in shapes_of(config)]
        assert len(set(sources)) == len(sources)


def test_names_are_those_that_transformers_and_t5x_use():
    table = names.hf_table(tied=False, relpos_per_layer=True)
    expected = {
        "decoder/layers_1/encoder_decoder_attention/out/kernel": (
            "decoder.block.1.layer.1.EncDecAttention.o.weight"
        ),
        "decoder/layers_0/pre_mlp_layer_norm/scale": "decoder.block.0.layer.2.layer_norm.weight",
        "encoder/layers_2/mlp/wi_1/kernel": "encoder.block.2.layer.1.DenseReluDense.wi_1.weight",
        "encoder/layers_3/relpos_bias/rel_embedding": (
            "encoder.block.3.layer.0.SelfAttention.relative_attention_bias.weight"
        ),
        "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
        "decoder/logits_dense/kernel": "lm_head.weight",
    }
    assert {name: names.source_name(name, table) for name in expected} == expected
    found = names.source_name("decoder/layers_11/mlp/wo/kernel", names.T5X_TABLE)
    assert found == "target.decoder.layers_11.mlp.wo.kernel"


ROWS = (names.Rule("a.{i}", "x/{i}"), names.Rule("b.{i}", "x/{i}"), names.Rule("c", "y", True))
REFUSALS = {
    "unknown": ({"a.0": (2,), "c": (3, 2), "d.1": (1,)}, "f: 'd.1' is unknown"),
    "leading zero": ({"a.00": (2,), "c": (3, 2)}, "f: 'a.00' is unknown"),
    "unexpected": ({"a.0": (2,), "c": (3, 2), "a.1": (2,)}, "f: 'a.1' is unexpected"),
    "twice": ({"a.0": (2,), "b.0": (2,), "c": (3, 2)}, "f: 'a.0' and 'b.0' give 'x/0' twice"),
    "missing": ({"a.0": (2,)}, "f: 'c' is missing;"),
    "missing more": ({}, r"f: 'a.0' is missing \(and 1 more\)"),
    "shape": ({"a.0": (2,), "c": (2, 3)}, r"'c' has shape \[2, 3\], the model needs \[3, 2\]"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_match_refuses(case):
    found, message = REFUSALS[case]
    with pytest.raises(UserError, match=message):
        names.match(found, {"x/0": (2,), "y": (2, 3)}, ROWS, "f")


def test_match_gives_origins():
    origins = names.match({"b.0": (2,), "c": (3, 2)}, {"x/0": (2,), "y": (2, 3)}, ROWS, "f")
    assert origins == {"x/0": names.Origin("b.0", False), "y": names.Origin("c", True)}


# transformers


@pytest.fixture
def tied(golden, tmp_path):
    """A copy of the golden T5 1.0 that may be broken, with its arrays."""
    shutil.copytree(golden / "hf" / "t5_v10", tmp_path / "hf")
    return tmp_path / "hf", load_file(tmp_path / "hf" / "model.safetensors")


def change(folder, **settings):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | settings))


def test_golden_t5_1_0(golden):
    checkpoint = hf.open_hf(str(golden / "hf" / "t5_v10"))
    assert checkpoint.config == T5Config(1100, 64, 4, 16, 128, 2, 2, dropout_rate=0.0, **T5_1_0)
    assert checkpoint.vocabulary is None
    held = load_file(golden / "hf" / "t5_v10" / "model.safetensors")
    assert np.array_equal(
        checkpoint.arrays["encoder/layers_1/attention/query/kernel"], held[QUERY].T
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_hf_gives_back_every_family(family, dtype, tmp_path):
    config = FAMILIES[family]
    arrays = random_arrays(config, dtype)
    write_hf(tmp_path, config, arrays)
    checkpoint = hf.open_hf(str(tmp_path))
    assert checkpoint.config == config
    assert same(checkpoint.arrays, arrays)
    assert checkpoint.arrays[EMBEDDING].dtype == np.dtype(dtype)


def broken_hf(tied, edit):
    folder, arrays = tied
    edit(arrays)
    save_file(arrays, folder / "model.safetensors")
    return str(folder)


HF_REFUSALS = {
    "unknown": (lambda a: a.update({"classifier.weight": a["shared.weight"]}), "classifier.weight"),
    "unexpected": (
        lambda a: a.update({QUERY.replace("1", "2", 1): a[QUERY]}),
        "block.2.*unexpected",
    ),
    "missing": (lambda a: a.pop(QUERY), f"'{QUERY}' is missing"),
    "shape": (
        lambda a: a.update({"shared.weight": a["shared.weight"][:9].copy()}),
        r"'shared.weight' has shape \[9, 64\], the model needs \[1100, 64\]",
    ),
    "dtype": (
        lambda a: a.update({QUERY: a[QUERY].astype(np.int8)}),
        f"'{QUERY}' holds I8; save it as float32 or bfloat16",
    ),
    "twice": (
        lambda a: a.update({"decoder.embed_tokens.weight": a["shared.weight"] + 1}),
        "'decoder.embed_tokens.weight' should repeat 'shared.weight' and differs.* twice",
    ),
    "head of a tied model": (
        lambda a: a.update({"lm_head.weight": a["shared.weight"] + 1}),
        "'lm_head.weight' differs from 'shared.weight' although config.json ties them",
    ),
}


@pytest.mark.parametrize("case", HF_REFUSALS)
def test_hf_refuses(tied, case):
    edit, message = HF_REFUSALS[case]
    with pytest.raises(UserError, match=message):
        hf.open_hf(broken_hf(tied, edit))


def test_hf_accepts_the_known_copies_and_the_known_unused_array(tied):
    def edit(arrays):
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
            arrays[f"{name}.weight"] = arrays["shared.weight"]
        arrays[names._UNUSED] = np.zeros((32, 4), np.float32)

    before = dict(hf.open_hf(str(tied[0])).arrays)
    assert same(hf.open_hf(broken_hf(tied, edit)).arrays, before)


def test_hf_takes_a_copy_where_the_original_is_left_out(tied):
    before = dict(hf.open_hf(str(tied[0])).arrays)
    folder = broken_hf(tied, lambda a: a.update({"lm_head.weight": a.pop("shared.weight")}))
    assert same(hf.open_hf(folder).arrays, before)


@pytest.mark.parametrize("size", [0, 4, 1000, -3])
def test_a_truncated_safetensors_file_is_named(tied, size):
    path = tied[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"model.safetensors: not a whole safetensors file"):
        hf.open_hf(str(tied[0]))


def shard(folder, arrays, **moved):
    """Two shards and their index, which places the arrays of `moved` elsewhere."""
    (folder / "model.safetensors").unlink()
    files_of = {
        name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(arrays)
    }
    for file in set(files_of.values()):
        save_file({n: arrays[n] for n in arrays if files_of[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files_of | moved}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return files_of


def test_shards_read_as_one(tied):
    folder, arrays = tied
    before = dict(hf.open_hf(str(folder)).arrays)
    shard(folder, arrays)
    assert same(hf.open_hf(str(folder)).arrays, before)


def test_a_broken_index_is_refused(tied):
    folder, arrays = tied
    homes = shard(folder, arrays, **{"shared.weight": "../model.safetensors"})
    with pytest.raises(UserError, match=r"points outside, to '../model.safetensors'"):
        hf.open_hf(str(folder))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**homes, "extra.weight": homes[QUERY]}}))
    with pytest.raises(UserError, match=r"'extra.weight' is not where .*index.json says"):
        hf.open_hf(str(folder))
    index.write_text(json.dumps({"weight_map": homes}))
    for file in set(homes.values()):
        save_file(arrays, folder / file)
    with pytest.raises(UserError, match=r"is stored twice, in .*00001.* and .*00002"):
        hf.open_hf(str(folder))
    (folder / homes[QUERY]).unlink()
    with pytest.raises(UserError, match=f".*{homes[QUERY]}: no such file"):
        hf.open_hf(str(folder))


CONFIG_REFUSALS = {
    "model_type": ({"model_type": "bart"}, "model_type is 'bart'; give one of t5, mt5, umt5"),
    "activation": (
        {"feed_forward_proj": "gated-tanh", "dense_act_fn": None, "is_gated_act": None},
        "feed_forward_proj 'gated-tanh'; the known activations are relu, gelu_new",
    ),
    "function": ({"dense_act_fn": "tanh"}, "dense_act_fn 'tanh', .*; the known activations are"),
    "epsilon": ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon = 1e-05, and only 1e-06 can"),
    "start": ({"decoder_start_token_id": 2}, "decoder_start_token_id = 2, and only 0 can"),
    "eos": ({"eos_token_id": [1, 5]}, r"eos_token_id = \[1, 5\], and only 1 can"),
    "unknown": (
        {"rope_theta": 1e4},
        r"rope_theta = 10000.0 is not a field .* hf:DIR\?ignore=rope_theta",
    ),
    "version": (
        {"transformers_version": "main"},
        "transformers_version = 'main' should be a version",
    ),
    "rate": ({"dropout_rate": float("nan")}, "dropout_rate = nan should be from 0 to below 1"),
    "null": ({"d_model": None}, "'d_model' is missing or not a whole number"),
    "kind": ({"num_decoder_layers": "2"}, "num_decoder_layers = '2' should be int"),
    "none": ({"num_decoder_layers": 0}, "num_decoder_layers = 0 should be 1 or more"),
    "buckets": ({"relative_attention_num_buckets": -1}, "= -1 should be 1 or more"),
    "list": ({"model_type": ["t5"]}, r"model_type is \['t5'\]; give one of t5, mt5, umt5"),
    "type": ({"d_model": "64"}, "'d_model' is missing or not a whole number"),
    "layers": ({"num_layers": 3, "num_decoder_layers": 2}, "encoder.block.2.* is missing"),
}


@pytest.mark.parametrize("case", CONFIG_REFUSALS)
def test_hf_refuses_a_config(tied, case):
    settings, message = CONFIG_REFUSALS[case]
    change(tied[0], **settings)
    with pytest.raises(UserError, match=message):
        hf.open_hf(str(tied[0]))


def test_a_field_is_ignored_when_the_backbone_string_says_so(tied):
    folder, _ = tied
    change(folder, rope_theta=1e4)
    assert load.read_config(f"hf:{folder}?ignore=rope_theta") == hf.open_hf_config(
        str(folder), ["rope_theta"]
    )
    with pytest.raises(UserError, match="rope_theta"):
        load.open_checkpoint(f"hf:{folder}?ignore=other")


def test_generation_settings_that_change_the_answers_are_refused(tied):
    folder, _ = tied
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "num_beams": 4}')
    with pytest.raises(UserError, match=r"generation_config.json: eos_token_id = 2, and only 1"):
        hf.open_hf(str(folder))
    (folder / "generation_config.json").write_text('{"eos_token_id": 1, "num_beams": 4}')
    assert hf.open_hf(str(folder)).config.vocab_size


@pytest.mark.parametrize(
    ("settings", "activations"),
    [
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "silu"}, ("silu", "linear")),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, ("gelu_exact", "linear")),
        ({"feed_forward_proj": "gated-relu"}, ("relu", "linear")),
        ({"feed_forward_proj": "gated-gelu", "is_gated_act": False}, ("gelu",)),
    ],
)
def test_the_activation_is_the_one_that_transformers_computes(tied, settings, activations):
    """`dense_act_fn` and `is_gated_act` come before what `feed_forward_proj` says."""
    raw = json.loads((tied[0] / "config.json").read_text())
    raw = {**raw, "dense_act_fn": None, "is_gated_act": None, **settings}
    read = hf.config_from(hf.settings_from(raw, "config.json"), True)
    assert read.mlp_activations == activations
    written = write.hf_settings(dataclasses.replace(read, scale_logits=True), "float32")
    again = hf.config_from(hf.settings_from(written, "config.json"), True)
    assert again.mlp_activations == activations


def test_version_5_ties_and_scales_as_its_files_say(tmp_path):
    """There the config always ties; a head of its own in the file is what counts."""
    new = {"transformers_version": "5.1.0", "tie_word_embeddings": True}
    untied = random_arrays(TINY)
    write_hf(tmp_path / "untied", TINY, untied, scale_decoder_outputs=False, **new)
    assert hf.open_hf(str(tmp_path / "untied")).config == TINY
    config = dataclasses.replace(TINY, logits_via_embedding=True)
    tied = random_arrays(config)
    for kind, scaled in (("t5", True), ("mt5", False), ("umt5", True)):
        one = dataclasses.replace(config, relpos_per_layer=kind == "umt5")
        arrays = random_arrays(one) if kind == "umt5" else tied
        write_hf(tmp_path / kind, one, arrays, model_type=kind, **new)
        read = hf.open_hf(str(tmp_path / kind)).config
        assert (read.logits_via_embedding, read.scale_logits) == (True, scaled)


def test_a_head_of_its_own_without_the_shared_embedding(tmp_path):
    """As madlad400 is saved: an embedding of the decoder alone, under a config of version 5."""
    arrays = random_arrays(TINY)
    new = {"transformers_version": "5.1.0", "tie_word_embeddings": True}
    write_hf(tmp_path, TINY, arrays, scale_decoder_outputs=False, **new)
    stored = load_file(tmp_path / "model.safetensors")
    stored["decoder.embed_tokens.weight"] = stored.pop("shared.weight")
    stored.pop("encoder.embed_tokens.weight", None)
    save_file(stored, tmp_path / "model.safetensors")
    checkpoint = hf.open_hf(str(tmp_path))
    assert checkpoint.config == TINY
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint.arrays[name], array, err_msg=name)


def test_the_tokenizer_of_a_folder(tied):
    change(tied[0], tokenizer_class="ByT5Tokenizer")
    assert hf.open_hf(str(tied[0])).vocabulary == "bytes"
    (tied[0] / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    assert hf.open_hf(str(tied[0])).vocabulary is None
    (tied[0] / "spiece.model").touch()
    assert hf.open_hf(str(tied[0])).vocabulary == str(tied[0] / "spiece.model")


TOKENIZER_REFUSALS = {
    "end": (
        "tokenizer_config.json",
        {"eos_token": "<eos>"},
        "eos_token = '<eos>', and only '</s>'",
    ),
    "map": ("special_tokens_map.json", {"pad_token": {"content": "[PAD]"}}, "pad_token = "),
    "case": ("tokenizer_config.json", {"do_lower_case": True}, "do_lower_case = True, and only"),
    "sampling": ("tokenizer_config.json", {"sp_model_kwargs": {"alpha": 0.1}}, "sp_model_kwargs"),
    "unknown": (
        "tokenizer_config.json",
        {"lowered": 1},
        r"lowered = 1 is .* hf:DIR\?ignore=lowered",
    ),
    "class": ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}, ".*is none of T5's"),
}


@pytest.mark.parametrize("case", TOKENIZER_REFUSALS)
def test_a_tokenizer_that_would_give_other_ids_is_refused(tied, case):
    file, fields, message = TOKENIZER_REFUSALS[case]
    (tied[0] / "spiece.model").touch()
    (tied[0] / file).write_text(json.dumps(fields))
    with pytest.raises(UserError, match=f"{file}: {message}"):
        hf.open_hf(str(tied[0]))
    assert hf.open_hf(str(tied[0]), list(fields)).vocabulary == str(tied[0] / "spiece.model")


@pytest.mark.parametrize("field", ["additional_special_tokens", "extra_special_tokens"])
def test_special_tokens_of_a_list_are_added_ones(tied, field):
    (tied[0] / "spiece.model").touch()
    fields = {field: ["<extra_id_0>", {"content": "<ORG>"}], "model_max_length": 512}
    (tied[0] / "tokenizer_config.json").write_text(json.dumps(fields))
    assert hf.open_hf(str(tied[0])).vocabulary == str(tied[0])  # opened by transformers


def test_a_name_that_cannot_be_downloaded_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"hf:someone/no-such-t5: cannot be downloaded from the hub \(.*\)"
    ):
        hf.open_hf("someone/no-such-t5")
    with pytest.raises(UserError, match=r"hf:./nowhere: no such folder"):
        hf.open_hf("./nowhere")


# Our own folders


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_our_folder_gives_back_every_family(family, dtype, tmp_path):
    config = dataclasses.replace(FAMILIES[family], dropout_rate=T5Config.dropout_rate)
    arrays = random_arrays(config, dtype)
    arrays[EMBEDDING] = np.asfortranarray(arrays[EMBEDDING])
    files.write(str(tmp_path), config, arrays, "bytes")
    checkpoint = files.open_folder(str(tmp_path))
    assert (checkpoint.config, checkpoint.vocabulary) == (config, "bytes")
    assert same(checkpoint.arrays, arrays)
    assert json.loads((tmp_path / "config.json").read_text())["family"] == family


def test_our_folder_carries_its_vocabulary(tmp_path):
    (tmp_path / "words.model").write_bytes(b"pieces")
    files.write(str(tmp_path / "b"), TINY, random_arrays(TINY), str(tmp_path / "words.model"))
    assert files.open_folder(str(tmp_path / "b")).vocabulary == str(tmp_path / "b/spiece.model")
    assert (tmp_path / "b" / "spiece.model").read_bytes() == b"pieces"


def test_our_folder_is_written_whole_or_not_at_all(tmp_path):
    arrays = random_arrays(TINY)
    with pytest.raises(UserError, match=f"{EMBEDDING}: is float64; cast it"):
        files.write(str(tmp_path), TINY, arrays | {EMBEDDING: np.zeros((48, 8))}, None)
    with pytest.raises(UserError, match=f"'{EMBEDDING}' is missing"):
        files.write(str(tmp_path), TINY, {n: a for n, a in arrays.items() if n != EMBEDDING}, None)
    assert list(tmp_path.iterdir()) == []


OURS = {
    "unknown key": ({"n_layers": 3}, "key 'n_layers' is unknown"),
    "type": ({"num_heads": 2.0}, "num_heads = 2.0 should be of type int"),
    "switch": ({"scale_logits": 1}, "scale_logits = 1 should be of type bool"),
    "family": ({"family": "t5_1_0"}, "family 't5_1_0' should be 't5_1_1'"),
    "format": ({"format": "other"}, "not in our own format"),
    "vocabulary": ({"vocabulary": "../x"}, "vocabulary '../x' should be 'spiece.model'"),
    "shape": ({"emb_dim": 9}, r"has shape \[.*\], the model needs \[.*9.*\]"),
}


@pytest.mark.parametrize("case", OURS)
def test_our_folder_refuses(tmp_path, case):
    settings, message = OURS[case]
    files.write(str(tmp_path), TINY, random_arrays(TINY), None)
    change(tmp_path, **settings)
    with pytest.raises(UserError, match=message):
        files.open_folder(str(tmp_path))


def test_our_folder_refuses_missing_parts(tmp_path):
    files.write(str(tmp_path), TINY, random_arrays(TINY, ml_dtypes.bfloat16), None)
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["max_distance"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match="key 'max_distance' is missing"):
        files.open_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: not JSON"):
        files.open_folder(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json: no such file"):
        files.open_folder(str(tmp_path))
