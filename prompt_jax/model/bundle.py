"""What a method hands to the T5: arrays, and who may see whom.

The T5 consumes a `PromptBundle` and never imports a method. Where the rows of a prompt stand in a
sequence is data, not code: the batch carries `*_prompt_slots` (0 = an ordinary column, k = row k-1
of the prompt), laid out by `layout.py`, so that padded rows, packed rows, prefixes and suffixes all
take the same path. What a method adds inside the layers is a tree of arrays with a leading layer
axis, which the T5 scans beside its weights.

Every array has a name, its path in the bundle (`encoder`, `decoder_layers/cross/keys`,
`encoder_layers/attention/query/a`): artefacts hold the arrays of a bundle under these names.

Shapes: G prompts (one per task, or 1), P prompt rows, D model width, B rows of a batch, T columns,
L layers of a stack, HK heads times head width, I inputs and O outputs of a matrix, r rank.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from prompt_jax.model.mixture import Mixture
from prompt_jax.settings import settings

PrefixPositions = Literal["none", "before"]


@settings
class Visibility:
    """Which columns a prompt's rows may attend to (input columns always see the prompt).

    Attributes:
      input: whether prompt rows attend to the columns of their own example.
      prompt: among prompt rows, `all` see all, each sees the `causal` past, or only it`self`.

    Source: the attention masks of Lester et al.'s released code; `all` with `input` is the paper.
    """

    input: bool = True
    prompt: Literal["all", "causal", "self"] = "all"


@struct.dataclass
class DenseEdit:
    """A change of one matrix W: y = ((x * input_scale) W + (x * input_scale) a b) * output_scale.

    Attributes:
      a, b: float32 [L, I, r] and [L, r, O], both or neither.
      input_scale, output_scale: float32 [L, I] and [L, O].
    """

    a: jax.Array | None = None
    b: jax.Array | None = None
    input_scale: jax.Array | None = None
    output_scale: jax.Array | None = None


@struct.dataclass
class AttentionEdit:
    """Keys and values before those of the text, and changes of the four matrices.

    Attributes:
      keys, values: float32 [L, P, HK]; seen by every column, in every segment of a packed row.
    """

    keys: jax.Array | None = None
    values: jax.Array | None = None
    query: DenseEdit = DenseEdit()
    key: DenseEdit = DenseEdit()
    value: DenseEdit = DenseEdit()
    out: DenseEdit = DenseEdit()


@struct.dataclass
class LayerEdit:
    """What a method changes inside the layers of one stack, or of one of them (without L).

    Attributes:
      rows: float32 [L, G, P, D]: they take the place of the prompt columns that enter a layer.
      added: float32 [L, G, P, D]: added to the prompt columns that enter a layer.
      attention: of the self-attention.
      cross: of the decoder's attention to the encoder.
      wi, wi_0, wi_1, wo: of the MLP (T5 1.0 has `wi`, T5 1.1 `wi_0` and `wi_1`).
      prefix_positions: keys of `attention` have no position (`none`: no bias) or stand `before`
        the first column, as those of transformers' past keys do; then rows must not be packed.
    """

    rows: jax.Array | None = None
    added: jax.Array | None = None
    attention: AttentionEdit = AttentionEdit()
    cross: AttentionEdit = AttentionEdit()
    wi: DenseEdit = DenseEdit()
    wi_0: DenseEdit = DenseEdit()
    wi_1: DenseEdit = DenseEdit()
    wo: DenseEdit = DenseEdit()
    prefix_positions: PrefixPositions = struct.field(pytree_node=False, default="none")

    @property
    def columns_before(self) -> int:
        """Keys of the self-attention that have positions of their own."""
        keys = self.attention.keys
        return 0 if keys is None or self.prefix_positions == "none" else keys.shape[-2]


@struct.dataclass
class PromptBundle:
    """What a method gives to one forward pass; every field is optional.

    Attributes:
      encoder: float32 [G, P, D], rows for the encoder's prompt columns.
      decoder: float32 [G, P', D], rows for the decoder's prompt columns.
      encoder_layers, decoder_layers: what changes inside the layers.
      mixture: prompts that each example mixes into the encoder's; then G is 1.
      visibility: the attention policy of the encoder's prompt columns.
    """

    encoder: jax.Array | None = None
    decoder: jax.Array | None = None
    encoder_layers: LayerEdit = LayerEdit()
    decoder_layers: LayerEdit = LayerEdit()
    mixture: Mixture = Mixture()
    visibility: Visibility = struct.field(pytree_node=False, default=Visibility())


NO_PROMPT = PromptBundle()
GROUPED = {"encoder": 0, "decoder": 0, "rows": 1, "added": 1}  # last part of a name: the axis G


def named(bundle: PromptBundle) -> dict[str, jax.Array]:
    """The arrays of a bundle with one prompt, by name and without the axis G."""
    found = {}
    for path, value in jax.tree_util.tree_flatten_with_path(bundle)[0]:
        parts = [key.name for key in path]
        axis = GROUPED.get(parts[-1])
        found["/".join(parts)] = value if axis is None else jnp.squeeze(value, axis)
    return found


def bundle_of(
    arrays: Mapping[str, Any],
    visibility: Visibility = Visibility(),  # noqa: B008 (frozen)
    prefix_positions: PrefixPositions = "none",
) -> PromptBundle:
    """The bundle of named arrays: the inverse of `named`.

    Every name must be known (`known_name`).
    """
    placed = LayerEdit(prefix_positions=prefix_positions)
    bundle = PromptBundle(encoder_layers=placed, decoder_layers=placed, visibility=visibility)
    for name, value in arrays.items():
        parts = name.split("/")
        axis = GROUPED.get(parts[-1])
        value = value if axis is None else jnp.expand_dims(value, axis)
        bundle = _put(bundle, parts, value)
    return bundle


def _put(node: Any, parts: list[str], value: Any) -> Any:
    inner = _put(vars(node)[parts[0]], parts[1:], value) if parts[1:] else value
    return node.replace(**{parts[0]: inner})


def known_name(name: str) -> bool:
    """Whether a bundle has an array of that name."""
    node: Any = NO_PROMPT
    for part in name.split("/"):
        if not isinstance(node, EDITS) or part not in vars(node):
            return False
        node = vars(node)[part]
    return node is None


EDITS = (PromptBundle, LayerEdit, AttentionEdit, DenseEdit, Mixture)
RANKS = {"rows": 3, "added": 3, "keys": 3, "values": 3, "a": 3, "b": 3}  # others': 2
RANKS |= {"sources": 3, "scale": 1, "bias": 1}


def group(name: str) -> int | None:
    """The axis along which the arrays of several prompts are stacked; None: they cannot be."""
    return GROUPED.get(name.rsplit("/", 1)[-1])


def rank_of(name: str) -> int:
    """How many dimensions a named array has."""
    return RANKS.get(name.rsplit("/", 1)[-1], 2)


def axes_of(name: str, config: Any) -> tuple[int | None, ...]:
    """The shape that a named array must have for a T5 of `config`; None: as the method says.

    >>> from prompt_jax.model.sizes import SIZES
    >>> axes_of("encoder_layers/attention/query/a", SIZES["nano"])
    (4, 128, None)
    """
    D, HK, F = config.emb_dim, config.num_heads * config.head_dim, config.mlp_dim
    if "/" not in name:
        return (None, D)
    stack, *inner = name.split("/")
    if stack == "mixture":
        known = {"sources": (None, None, D), "down": (D, None), "up": (None, D)}
        return known.get(inner[0], (D,))
    L = config.num_encoder_layers if stack == "encoder_layers" else config.num_decoder_layers
    if inner[-1] in ("rows", "added"):
        return (L, None, D)
    if inner[-1] in ("keys", "values"):
        return (L, None, HK)
    inputs, outputs = {"out": (HK, D), "wo": (F, D)}.get(
        inner[-2], (D, F if inner[-2].startswith("wi") else HK)
    )
    shapes = {
        "a": (L, inputs, None),
        "b": (L, None, outputs),
        "input_scale": (L, inputs),
        "output_scale": (L, outputs),
    }
    return shapes[inner[-1]]


def insert_rows(
    x_BTD: jax.Array, rows_GPD: jax.Array | None, slots_BT: jax.Array | None, tasks_BT
) -> jax.Array:
    """Puts prompt rows into their columns: x where slots are 0, row `slots - 1` elsewhere.

    Rows are cast to x's dtype here and nowhere else; the gradient of a row is the sum over every
    column that shows it, which is what packing needs. `tasks_BT` (int32) picks among G prompts;
    None means prompt 0.
    """
    if rows_GPD is None or slots_BT is None:
        return x_BTD
    return jnp.where(slots_BT[..., None] > 0, _spread(x_BTD, rows_GPD, slots_BT, tasks_BT), x_BTD)


def enter(
    x_BTD: jax.Array, edit: LayerEdit, slots_BT: jax.Array | None, tasks_BT: jax.Array | None
) -> jax.Array:
    """What enters a layer: x, its prompt columns replaced or added to as the layer's edit says."""
    x_BTD = insert_rows(x_BTD, edit.rows, slots_BT, tasks_BT)
    if edit.added is None or slots_BT is None:
        return x_BTD
    added = _spread(x_BTD, edit.added, slots_BT, tasks_BT)
    return jnp.where(slots_BT[..., None] > 0, x_BTD + added, x_BTD)


def _spread(x_BTD, rows_GPD, slots_BT, tasks_BT) -> jax.Array:
    """[B, T, D] in x's dtype: the row of every prompt column, and row 0 elsewhere."""
    num_tasks, length, width = rows_GPD.shape
    if num_tasks == 1 or tasks_BT is None:
        index_BT = jnp.maximum(slots_BT - 1, 0)
    else:
        index_BT = jnp.maximum(tasks_BT, 0) * length + jnp.maximum(slots_BT - 1, 0)
    return rows_GPD.reshape(num_tasks * length, width).astype(x_BTD.dtype)[index_BT]


def visible(policy: Visibility, slots_BT: jax.Array | None) -> jax.Array | None:
    """The policy as a mask, bool [B, T, T] (query, key), or None where everything is visible."""
    if slots_BT is None or policy == Visibility():
        return None
    query, key = slots_BT[:, :, None], slots_BT[:, None, :]
    to_prompt = {"all": key > 0, "causal": key <= query, "self": key == query}[policy.prompt]
    from_prompt = jnp.where(key > 0, to_prompt, policy.input)
    return jnp.where(query > 0, from_prompt, True)
