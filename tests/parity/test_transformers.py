"""Backbones read from transformers' folders give transformers' numbers."""

import numpy as np
import pytest

import prompt_jax as pj

pytestmark = pytest.mark.parity
N = 12  # tokens decoded


def test_logits_are_those_of_transformers(pair, batch):
    ours = pj.logits(pair.backbone, batch)
    theirs = peer_logits(pair.peer, batch)
    real = batch["decoder_target_tokens"] > 0
    assert np.ptp(theirs[real], axis=-1).min() > 0.5  # numbers worth comparing
    # Logits reach 13 here: the order of float32 sums alone moves them by 2e-5.
    np.testing.assert_allclose(ours[real], theirs[real], rtol=1e-5, atol=2e-5)


def test_greedy_ids_are_those_of_transformers(decoding_pair, questions):
    ids, _ = pj.generate(decoding_pair.backbone, questions, max_length=N)
    theirs = peer_greedy(decoding_pair.peer, questions)
    assert len(np.unique(theirs, axis=0)) > 1
    np.testing.assert_array_equal(ids[:, 0], theirs)


def test_byt5s_folder_names_its_vocabulary(make_pair):
    from transformers import ByT5Tokenizer

    from prompt_jax.backbone.load import load_backbone

    folder = make_pair("byt5").folder
    ByT5Tokenizer().save_pretrained(folder)
    vocabulary = load_backbone(f"hf:{folder}", "float32").vocabulary
    assert vocabulary is not None
    assert vocabulary.encode("né") == [113, 198, 172]


def peer_logits(model, batch) -> np.ndarray:
    """float32 [B, S, V] of a torch model."""
    import torch

    tokens = torch.tensor(batch["encoder_input_tokens"]).long()
    with torch.no_grad():
        outputs = model(
            input_ids=tokens,
            attention_mask=(tokens > 0).long(),
            decoder_input_ids=torch.tensor(batch["decoder_input_tokens"]).long(),
        )
    return outputs.logits.numpy()


def peer_greedy(model, questions: np.ndarray) -> np.ndarray:
    """int [B, N]: what `generate` gives after the start token, 0 after EOS.

    Without its cache, whose length is the encoder's depth and which fails on a deeper decoder.
    """
    import torch

    tokens = torch.tensor(questions).long()
    mask = (tokens > 0).long()
    options = {"max_new_tokens": N, "do_sample": False, "num_beams": 1, "use_cache": False}
    ids = model.generate(input_ids=tokens, attention_mask=mask, **options).numpy()[:, 1:]
    return np.pad(ids, ((0, 0), (0, N - ids.shape[1])))
