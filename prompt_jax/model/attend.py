"""What each query takes from the values: by XLA, or by one kernel that keeps no attention weights.

`T5Config.attention` names one of `KERNELS`. A kernel makes T5's bias and the mask into one array
that is added to the logits, so segments, policies of prompts and prefixes are as in XLA's; the
backward pass finds no weights [B, H, S, T] of any layer saved. Kernels have no dropout of weights.

Shapes: B rows, H heads, S queries, T keys, K features of a head.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from prompt_jax.errors import Setting, UserError

MASKED = -1e10  # T5X's value for a masked attention logit
BLOCK = 128  # columns that a kernel takes at a time; over fewer XLA's way is the faster one
PLATFORMS = {"cudnn": "gpu", "pallas": "tpu"}
KERNELS = ("xla", *PLATFORMS)


def check(kernel: str, dropout_rate: float, dtype: str) -> None:
    """UserError: no such kernel, or one that has no dropout or not the dtype."""
    setting = Setting("BackboneSettings", "attention", kernel)
    if kernel not in KERNELS:
        raise UserError(setting, remedy=f"give one of {[*KERNELS]}")
    if kernel != "xla" and dropout_rate:
        problem = f"has no dropout of attention weights, and dropout_rate is {dropout_rate}"
        raise UserError(setting, problem, "set Backbone.dropout_rate = 0.0, or take 'xla'")
    if kernel == "cudnn" and dtype != "bfloat16":
        raise UserError(setting, f"does not take {dtype}", "set DTYPE = 'bfloat16', or take 'xla'")


def check_platform(kernel: str, platform: str) -> None:
    """UserError: the kernel is for other devices than those of `platform`."""
    if PLATFORMS.get(kernel, platform) != platform:
        problem = f"runs on {PLATFORMS[kernel].upper()}s alone, and the devices here are {platform}"
        raise UserError(Setting("BackboneSettings", "attention", kernel), problem, "take 'xla'")


def kernel_for(kernel: str, queries: int, keys: int) -> str:
    """`xla` where the attention is too small for a kernel: decoders, and single steps."""
    return kernel if kernel != "xla" and min(queries, keys) >= BLOCK else "xla"


def softmax(q_BSHK, k_BTHK, bias, mask) -> jax.Array:
    """Attention weights, float32 [B, H, S, T]; `bias` float32 [1 or B, H, S, T] or None, `mask`
    bool [B, 1, S, T]."""
    logits = jnp.einsum("bshk,bthk->bhst", q_BSHK, k_BTHK, preferred_element_type=jnp.float32)
    return jax.nn.softmax(jnp.where(mask, logits if bias is None else logits + bias, MASKED))


def fused(kernel: str, q_BSHK, k_BTHK, v_BTHK, bias, mask) -> jax.Array:
    """[B, S, H, K] by a kernel; arguments as of `softmax`."""
    S, T = q_BSHK.shape[1], k_BTHK.shape[1]
    shape = (*q_BSHK.shape[::2], S, T)
    added = jnp.broadcast_to(jnp.where(mask, 0.0 if bias is None else bias, MASKED), shape)
    added = _padded(_padded(added, 3, MASKED), 2)
    args = (_padded(q_BSHK, 1), _padded(k_BTHK, 1), _padded(v_BTHK, 1), added)
    run = _FUSED[kernel]
    if not jax.sharding.get_abstract_mesh().empty:
        rows = ("data", "fsdp")  # the compiler splits no kernel: each device has its rows and heads
        heads, logits = PartitionSpec(rows, None, "model"), PartitionSpec(rows, "model")
        specs = (heads, heads, heads, logits)
        run = jax.shard_map(run, in_specs=specs, out_specs=heads, check_vma=False)
    return run(*args)[:, :S]


def _padded(x: jax.Array, axis: int, value: float = 0.0) -> jax.Array:
    """x with whole blocks along an axis."""
    widths = [(0, -size % BLOCK if n == axis else 0) for n, size in enumerate(x.shape)]
    return jnp.pad(x, widths, constant_values=value)


def _flash(q_BSHK, k_BTHK, v_BTHK, added_BHST) -> jax.Array:
    """Dao et al. 2022 (https://arxiv.org/abs/2205.14135), JAX's kernel for TPUs."""
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    q, k, v = (x.swapaxes(1, 2) for x in (q_BSHK, k_BTHK, v_BTHK))
    return flash_attention(q, k, v, added_BHST).swapaxes(1, 2)


def _cudnn(q_BSHK, k_BTHK, v_BTHK, added_BHST) -> jax.Array:
    added = added_BHST.astype(q_BSHK.dtype)
    attend = functools.partial(jax.nn.dot_product_attention, scale=1.0, implementation="cudnn")
    return attend(q_BSHK, k_BTHK, v_BTHK, added)


_FUSED = {"cudnn": _cudnn, "pallas": _flash}
