"""A prompt that PEFT tuned and saved gives PEFT's numbers here."""

import numpy as np
import pytest

import prompt_jax as pj

pytestmark = [
    pytest.mark.parity,
    # PEFT asks transformers for a property by its old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
ROWS = 5


@pytest.fixture(scope="module")
def tuned(make_pair, tmp_path_factory):
    """PEFT's model as it was saved and as reloaded, our backbone, and the saved rows [P, d].

    PEFT gives gradients of the first only: it trains no prompt that it loaded.
    """
    import peft
    import torch
    from safetensors.numpy import load_file

    pair, folder = make_pair("t5_1_1"), tmp_path_factory.mktemp("peft")
    settings = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=ROWS, num_transformer_submodules=1
    )
    torch.manual_seed(3)
    fresh = peft.get_peft_model(pair.peer, settings)
    with torch.no_grad():
        fresh.prompt_encoder["default"].embedding.weight.normal_()
    fresh.save_pretrained(folder)
    prompt = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    loaded = peft.PeftModel.from_pretrained(fresh.get_base_model(), folder)
    return fresh.eval(), loaded.eval(), pair.backbone, prompt


def test_logits_with_the_prompt(tuned, batch):
    _, loaded, backbone, prompt = tuned
    assert prompt.shape == (ROWS, backbone.config.emb_dim) and prompt.dtype == np.float32
    real = batch["decoder_target_tokens"] > 0
    ours = pj.logits(backbone, batch, prompt)[real]
    theirs = forward(loaded, batch).detach().numpy()[real]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    assert np.abs(pj.logits(backbone, batch)[real] - theirs).max() > 0.1  # the prompt matters


def test_loss_and_the_gradient_of_the_prompt(tuned, batch):
    import torch

    model, _, backbone, prompt = tuned
    logits = forward(model, batch)
    targets = torch.tensor(batch["decoder_target_tokens"]).long()
    theirs = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=0, reduction="sum"
    )
    rows = model.prompt_encoder["default"].embedding.weight
    (gradient,) = torch.autograd.grad(theirs, rows)
    loss, ours = pj.loss_and_prompt_grad(backbone, batch, prompt, z_loss=0.0)
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    worst = np.abs(ours - gradient.numpy()).max()
    assert worst <= 1e-4 * np.abs(gradient.numpy()).max()


def forward(model, batch):
    """torch float32 [B, S, V] under teacher forcing, with a graph for gradients."""
    import torch

    tokens = torch.tensor(batch["encoder_input_tokens"]).long()
    return model(
        input_ids=tokens,
        attention_mask=(tokens > 0).long(),
        decoder_input_ids=torch.tensor(batch["decoder_input_tokens"]).long(),
    ).logits
