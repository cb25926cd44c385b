"""Attention in one kernel gives what XLA's gives, and is refused where it cannot."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu
from jax.sharding import Mesh

from prompt_jax.backbone import weights
from prompt_jax.backbone.settings import BackboneSettings
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.fit import estimate
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.methods.prefix import PrefixTuning
from prompt_jax.model import activations, attend
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.sharding import replicated
from prompt_jax.model.t5 import T5, T5Config
from prompt_jax.objective.loss import Loss

CONFIG = T5Config(
    50, 16, 2, 8, 24, 2, 2, num_buckets=8, max_distance=12, dropout_rate=0.0, dtype="float32"
)
ROWS, COLUMNS, PROMPT = 4, 150, 7  # two blocks of keys, of which the second is mostly padding


def batch() -> dict[str, np.ndarray]:
    """Rows of two examples each and some padding, with prompt rows before each example's text."""
    rng = np.random.default_rng(0)
    segments = np.repeat([1, 2, 0], [70, 60, 20])[None].repeat(ROWS, 0).astype(np.int32)
    slots = np.zeros_like(segments)
    slots[:, :PROMPT] = slots[:, 70 : 70 + PROMPT] = np.arange(1, PROMPT + 1)
    tokens = rng.integers(2, 50, segments.shape) * (segments > 0) * (slots == 0)
    targets = rng.integers(2, 50, (ROWS, 8))
    return {
        "encoder_input_tokens": tokens.astype(np.int32),
        "encoder_segment_ids": segments,
        "encoder_prompt_slots": slots,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1].astype(np.int32),
        "decoder_target_tokens": targets.astype(np.int32),
        "decoder_segment_ids": np.repeat([[1, 2]], 4, 1).repeat(ROWS, 0).astype(np.int32),
    }


def with_attention(config: T5Config, attention: str) -> T5:
    model = T5(config, nnx.Rngs(0))
    return weights.reconfigured(model, dataclasses.replace(config, attention=attention))


def loss_and_gradient(model: T5, bundle: PromptBundle, mesh: Mesh | None = None):
    def loss(bundle):
        return Loss()(lambda batch, key: model(batch, bundle, key), batch())[0]

    whole = jax.value_and_grad(loss)
    if mesh is not None:
        whole, bundle = activations.within(mesh, whole), jax.device_put(bundle, replicated(mesh))
    with tpu.force_tpu_interpret_mode():
        return jax.jit(whole)(bundle)


def same(config: T5Config, bundle: PromptBundle, mesh: Mesh | None = None) -> None:
    wanted = loss_and_gradient(with_attention(config, "xla"), bundle)
    found = loss_and_gradient(with_attention(config, "pallas"), bundle, mesh)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert float(jnp.abs(other).max()) > 0
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.abs(other).max()))


def rows_of() -> PromptBundle:
    return PromptBundle(encoder=jax.random.normal(jax.random.key(1), (1, PROMPT, CONFIG.emb_dim)))


@pytest.mark.parametrize("per_layer", [False, True])
def test_packed_rows_and_their_prompt(per_layer):
    same(dataclasses.replace(CONFIG, relpos_per_layer=per_layer), rows_of())


def test_keys_of_a_prefix():
    method = PrefixTuning(length=5, hidden=None)
    same(CONFIG, method.create(jax.random.key(0), Shapes(CONFIG))())


def test_every_device_attends_for_its_rows_and_heads():
    devices = np.array(jax.devices()[:4]).reshape(2, 1, 2)
    same(CONFIG, rows_of(), Mesh(devices, ("data", "fsdp", "model")))


def test_a_kernel_takes_whole_blocks_alone():
    assert attend.kernel_for("pallas", 512, 612) == "pallas"
    assert attend.kernel_for("pallas", 1, 612) == attend.kernel_for("pallas", 512, 100) == "xla"


def test_a_kernel_without_its_device_is_refused():
    for kernel in attend.PLATFORMS:
        with pytest.raises(UserError, match="alone, and the devices here are cpu"):
            BackboneSettings(name="nano", dropout_rate=0.0, attention=kernel).load()


def test_a_kernel_that_cannot_drop_weights_is_refused(capsys, tmp_path):
    words = ["train", "--gin_file=runs/quickstart.gin", f"--model_dir={tmp_path}/run"]
    words += ["--gin.Backbone.attention='pallas'", "--gin.Backbone.dropout_rate=0.1"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "attention" in error and "dropout" in error and error.count("\n") == 1
    assert main([*words[:3], "--gin.Backbone.attention='flash'"]) == 2
    assert "'pallas'" in capsys.readouterr().err
    words[-1] = "--gin.Backbone.dropout_rate=0.0"
    assert main([*words[:3], "--gin.Backbone.attention='cudnn'", words[-1]]) == 2
    assert "does not take float32" in capsys.readouterr().err


def test_less_memory_is_foreseen_where_nothing_is_saved_of_weights():
    one, other = (
        estimate.activation_bytes(
            dataclasses.replace(CONFIG, attention=attention), 4, 512, 8, "gpu"
        )
        for attention in ("xla", "cudnn")
    )
    assert other < one / 2
