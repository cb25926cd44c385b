"""What `convert` writes, transformers reads; what torch saves, we read."""

import json

import numpy as np
import pytest

from prompt_jax.backbone.convert import convert
from prompt_jax.backbone.formats import torch_bin
from prompt_jax.backbone.load import open_checkpoint
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError

pytestmark = pytest.mark.parity


def peer_logits(folder, batch) -> np.ndarray:
    """float32 [B, S, V] of the model that transformers finds in a folder."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    tokens = torch.tensor(batch["encoder_input_tokens"]).long()
    with torch.no_grad():
        outputs = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()(
            input_ids=tokens,
            attention_mask=(tokens > 0).long(),
            decoder_input_ids=torch.tensor(batch["decoder_input_tokens"]).long(),
        )
    return outputs.logits.numpy()


@pytest.mark.parametrize("version", ["v10", "v11"])
def test_transformers_gives_t5xs_logits_after_conversion(shared, tmp_path, version):
    source = shared / "golden" / "t5x" / f"{version}_t5x" / "checkpoint_1000"
    argv = ["convert", f"--backbone=t5x:{source}", "--format=hf", f"--output={tmp_path / 'hf'}"]
    assert main(argv) == 0
    golden = np.load(shared / "golden" / "t5x" / f"{version}_forward.npz")
    for name in ("basic", "long"):
        batch = {key: golden[f"{name}/{key}"] for key in BATCH}
        real = batch["decoder_target_tokens"] > 0
        theirs, ours = golden[f"{name}/logits"][real], peer_logits(tmp_path / "hf", batch)[real]
        assert np.ptp(theirs, axis=-1).min() > 1
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


BATCH = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")


@pytest.mark.parametrize("name", ["t5", "mt5", "umt5_tied", "ul2"])
def test_a_folder_of_transformers_comes_back_as_it_was(make_pair, tmp_path, batch, name):
    """To our Orbax layout and back: transformers computes the same numbers."""
    pair = make_pair(name)
    convert(f"hf:{pair.folder}", "orbax", str(tmp_path / "orbax"))
    convert(f"orbax:{tmp_path / 'orbax'}", "hf", str(tmp_path / "hf"))
    assert np.array_equal(peer_logits(tmp_path / "hf", batch), peer_logits(pair.folder, batch))


# torch's .bin files


@pytest.fixture
def bins(make_pair, tmp_path):
    """A T5 1.0 in two .bin shards, bfloat16, and the same in safetensors."""
    import torch

    pair = make_pair("t5")
    state = {name: value.bfloat16() for name, value in pair.peer.state_dict().items()}
    names = sorted(state)  # with the copies of the embedding, as old checkpoints have them
    homes = {n: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, n in enumerate(names)}
    for file in set(homes.values()):
        torch.save({n: state[n] for n in names if homes[n] == file}, tmp_path / file)
    index = {"metadata": {}, "weight_map": homes}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text((pair.folder / "config.json").read_text())
    return tmp_path, pair, homes


def test_bin_files_are_read_through_torch(bins):
    folder, pair, _ = bins
    read = open_checkpoint(f"hf:{folder}").arrays
    held = open_checkpoint(f"hf:{pair.folder}").arrays
    assert sorted(read) == sorted(held)
    for name, array in read.items():
        assert array.dtype.name == "bfloat16"
        assert np.array_equal(array, held[name].astype(array.dtype)), name


def test_bin_files_that_hold_more_than_weights_are_not_opened(bins):
    import torch

    folder, _, homes = bins
    file = folder / next(iter(homes.values()))
    torch.save({"x": Surprise()}, file)
    with pytest.raises(UserError, match=r"bin: holds more than weights and is not opened"):
        open_checkpoint(f"hf:{folder}")
    assert not Surprise.made
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"bin: not a whole file of torch; copy it again"):
        open_checkpoint(f"hf:{folder}")
    torch.save({"shared.weight": torch.zeros(3, dtype=torch.int8)}, file)
    with pytest.raises(UserError, match=r"'shared.weight' holds torch.int8; save it as float32"):
        open_checkpoint(f"hf:{folder}")


class Surprise:
    """Something whose reading would run code."""

    made = False

    def __reduce__(self):
        return (Surprise.make, ())

    @staticmethod
    def make():
        Surprise.made = True


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_of_parameters_and_of_old_torch_is_read(tmp_path, zipped):
    import torch

    tensors = {"a": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))}
    torch.save(tensors, tmp_path / "m.bin", _use_new_zipfile_serialization=zipped)
    stored = torch_bin.TorchBin(tmp_path / "m.bin").stored["a"]
    assert stored.whole().tolist() == [[0, 1, 2], [3, 4, 5]]
