"""What a method hands to the T5: arrays, and who may see whom.

The T5 consumes a `PromptBundle` and never imports a method. Where the rows of a prompt stand in a
sequence is data, not code: the batch carries `*_prompt_slots` (0 = an ordinary column, k = row k-1
of the prompt), laid out by `prompt/layout.py`, so that padded rows, packed rows, prefixes and
suffixes all take the same path. What a method adds inside the layers is a tree of arrays with a
leading layer axis, which the T5 scans beside its weights.

Every array has a name, its path in the bundle (`encoder`, `decoder_layers/cross/keys`,
`encoder_layers/attention/query/a`), and ARRAYS says what it is: its axes, and what a prompt that
lacks it has in its place. Artefacts hold the arrays of a
bundle with one prompt under these names.

Shapes: X prompts (tasks of a mixture, saved prompts of one evaluation, tenants of a server, or the
examples of a batch whose method makes rows from the text), P prompt rows or keys, D model width,
B rows of a batch, T columns, L layers of a stack, C heads times head width, F MLP width, I inputs
and O outputs of a matrix, r rank, N places of a text. X is on every array. `prompt_ids` int32 [B]
of a batch, or the columns' own `*_task_ids`, say which of the X an example has; without them there
is one prompt.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from prompt_jax.errors import Setting, UserError
from prompt_jax.settings import settings

PrefixPositions = Literal["none", "before"]
NOWHERE = jnp.iinfo(jnp.int32).max  # the position of a key that has none: its bias is 0


@settings
class Visibility:
    """Which columns a prompt's rows may attend to (input columns always see the prompt).

    Attributes:
      input: whether prompt rows attend to the columns of their own example.
      prompt: among prompt rows, `all` see all, each sees the `causal` past, or only it`self`.
      computed_once: rows that do not see the input are the same for every example. They stand in
        no column: one copy a step goes through the encoder, and every example attends to its keys
        and values (`T5.computed_once`). Loss and gradients are those of rows beside each example.

    Source: the attention masks of Lester et al.'s released code; `all` with `input` is the paper.
    """

    input: bool = True
    prompt: Literal["all", "causal", "self"] = "all"
    computed_once: bool = False

    def check(self):
        if self.computed_once and self.input:
            raise UserError(
                Setting("Visibility", "computed_once", True),
                "prompt rows that see the input differ from example to example",
                "bind Visibility.input = False",
            )


@struct.dataclass
class DenseEdit:
    """A change of one matrix W: y = ((x * input_scale) W + (x * input_scale) a b) * output_scale.

    Attributes:
      a, b: float32 [L, X, I, r] and [L, X, r, O], both or neither.
      input_scale, output_scale: float32 [L, X, I] and [L, X, O].
    """

    a: jax.Array | None = None
    b: jax.Array | None = None
    input_scale: jax.Array | None = None
    output_scale: jax.Array | None = None


@struct.dataclass
class AttentionEdit:
    """Keys and values before those of the text, and changes of the four matrices.

    Attributes:
      keys, values: float32 [L, X, P, C]; seen by every column, in every segment of a packed row.
      present: bool [L, X, P]: which of them each prompt has; None: all. In a layer also
        [B, T, P]: which of them each column sees.
    """

    keys: jax.Array | None = None
    values: jax.Array | None = None
    present: jax.Array | None = None
    query: DenseEdit = DenseEdit()
    key: DenseEdit = DenseEdit()
    value: DenseEdit = DenseEdit()
    out: DenseEdit = DenseEdit()


@struct.dataclass
class LayerEdit:
    """What a method changes inside the layers of one stack, or of one of them (without L).

    Attributes:
      rows: float32 [L, X, P, D]: they take the place of the prompt columns that enter a layer.
      added: float32 [L, X, P, D]: added to the prompt columns that enter a layer.
      replaces: bool [L, X]: whose `rows` count; None: all.
      attention: of the self-attention.
      cross: of the decoder's attention to the encoder.
      wi, wi_0, wi_1, wo: of the MLP (T5 1.0 has `wi`, T5 1.1 `wi_0` and `wi_1`).
    """

    rows: jax.Array | None = None
    added: jax.Array | None = None
    replaces: jax.Array | None = None
    attention: AttentionEdit = AttentionEdit()
    cross: AttentionEdit = AttentionEdit()
    wi: DenseEdit = DenseEdit()
    wi_0: DenseEdit = DenseEdit()
    wi_1: DenseEdit = DenseEdit()
    wo: DenseEdit = DenseEdit()


@struct.dataclass
class PromptBundle:
    """What a method gives to one forward pass; every field is optional.

    Attributes:
      encoder: float32 [X, P, D], rows for the encoder's prompt columns.
      decoder: float32 [X, P', D], rows for the decoder's prompt columns. They end where the text
        begins: a prompt with fewer than P' rows has them last.
      encoder_offset: float32 [X, N, D], added to the embeddings of an example's text by their place
        in it, prompt columns not counted; text from place N on stays as it is.
      encoder_layers, decoder_layers: what changes inside the layers.
      encoder_ids: int32 [B, T], which of the X prompts each column of the encoder shows; None: as
        the batch says.
      encoder_positions: int32 [X, P], the positions of the keys of the encoder's `attention`, or
        of rows that are computed once, for every example of a row: those below 0 count back from
        its first column, others on from behind its last. NOWHERE: a key without a position. None:
        no key has one.
      decoder_positions: int32 [X, P], the same of the keys of the decoder's `attention`, below 0.
      decoder_present: bool [X, P']: which decoder rows each prompt has; None: all.
      visibility: the attention policy of the encoder's prompt columns.
    """

    encoder: jax.Array | None = None
    decoder: jax.Array | None = None
    encoder_offset: jax.Array | None = None
    encoder_layers: LayerEdit = LayerEdit()
    decoder_layers: LayerEdit = LayerEdit()
    encoder_ids: jax.Array | None = None
    encoder_positions: jax.Array | None = None
    decoder_positions: jax.Array | None = None
    decoder_present: jax.Array | None = None
    visibility: Visibility = struct.field(pytree_node=False, default=Visibility())


NO_PROMPT = PromptBundle()


class Array(NamedTuple):
    """What there is to know of one array of a bundle.

    Attributes:
      axes: its axes, by the letters above.
      neutral: the value that changes nothing, for a prompt that lacks it or has fewer rows.
      at_end: a shorter prompt's part stands at the end of the axis P: keys and decoder rows end
        where the text begins; an encoder's rows are found by their slots.
      trained: a method may train it; the others say which arrays a prompt has.
    """

    axes: str
    neutral: float | int | bool = 0.0
    at_end: bool = False
    trained: bool = True


ATTENTIONS = {
    "encoder": "encoder_layers/attention",
    "decoder": "decoder_layers/attention",
    "cross": "decoder_layers/cross",
}
_MATRICES = {  # of a layer: inputs and outputs
    "attention/query": "DC",
    "attention/key": "DC",
    "attention/value": "DC",
    "attention/out": "CD",
    "cross/query": "DC",
    "cross/key": "DC",
    "cross/value": "DC",
    "cross/out": "CD",
    "wi": "DF",
    "wi_0": "DF",
    "wi_1": "DF",
    "wo": "FD",
}


def _layers(stack: str) -> dict[str, Array]:
    """The arrays inside the layers of a stack."""
    decoder = stack == "decoder"
    arrays = {
        "rows": Array("LXPD", at_end=decoder),
        "added": Array("LXPD", at_end=decoder),
        "replaces": Array("LX", False, trained=False),
    }
    for attention in ("attention", "cross"):
        arrays[f"{attention}/keys"] = Array("LXPC", at_end=True)
        arrays[f"{attention}/values"] = Array("LXPC", at_end=True)
        arrays[f"{attention}/present"] = Array("LXP", False, at_end=True, trained=False)
    for matrix, (I, O) in _MATRICES.items():  # noqa: E741 (axes)
        arrays[f"{matrix}/a"] = Array(f"LX{I}r")
        arrays[f"{matrix}/b"] = Array(f"LXr{O}")
        arrays[f"{matrix}/input_scale"] = Array(f"LX{I}", 1.0)
        arrays[f"{matrix}/output_scale"] = Array(f"LX{O}", 1.0)
    return {f"{stack}_layers/{name}": array for name, array in arrays.items()}


# Every array of a bundle by its name; all that is known of one is said here alone.
ARRAYS: dict[str, Array] = {
    "encoder": Array("XPD"),
    "decoder": Array("XPD", at_end=True),
    "encoder_offset": Array("XND"),
    **_layers("encoder"),
    **_layers("decoder"),
    "encoder_positions": Array("XP", NOWHERE, at_end=True, trained=False),
    "decoder_positions": Array("XP", NOWHERE, at_end=True, trained=False),
    "decoder_present": Array("XP", False, at_end=True, trained=False),
}
ALL_AXES = {name: array.axes for name, array in ARRAYS.items()}
AXES = {name: array.axes for name, array in ARRAYS.items() if array.trained}  # of artefacts


def named(bundle: PromptBundle) -> dict[str, jax.Array]:
    """The arrays of a bundle with one prompt, by name and without the axis X."""
    arrays = arrays_by_name(bundle)
    return {n: jnp.squeeze(x, AXES[n].index("X")) for n, x in arrays.items() if n in AXES}


def bundle_of(
    arrays: Mapping[str, Any],
    visibility: Visibility = Visibility(),  # noqa: B008 (frozen)
    prefix_positions: PrefixPositions = "none",
    after_text: bool = False,
) -> PromptBundle:
    """The bundle with one prompt of named arrays: the inverse of `named`. Names are those of AXES.

    `prefix_positions`: the keys of self-attention stand at no position (`none`), or `before` the
    first column, as those of transformers' past keys do. `after_text`: where rows stand that are
    computed once.
    """
    bundle = PromptBundle(visibility=visibility)
    for name, value in arrays.items():
        bundle = put(bundle, name, jnp.expand_dims(value, AXES[name].index("X")))
    if visibility.computed_once and bundle.encoder is not None:
        positions = beside_text(1, bundle.encoder.shape[1], after_text)
        bundle = dataclasses.replace(bundle, encoder_positions=positions)
    if prefix_positions == "none":
        return bundle
    return dataclasses.replace(
        bundle,
        encoder_positions=_before(bundle.encoder_layers),
        decoder_positions=_before(bundle.decoder_layers),
    )


def _before(edit: LayerEdit) -> jax.Array | None:
    """int32 [X, P]: positions right before column 0."""
    if edit.attention.keys is None:
        return None
    _, X, P, _ = edit.attention.keys.shape
    return beside_text(X, P, after=False)


def beside_text(X: int, P: int, after: bool) -> jax.Array:
    """int32 [X, P]: the positions of P columns right before an example's text, or right after."""
    first = 0 if after else -P
    return jnp.broadcast_to(jnp.arange(first, first + P, dtype=jnp.int32), (X, P))


def _put(node: Any, parts: list[str], value: Any) -> Any:
    inner = _put(vars(node)[parts[0]], parts[1:], value) if parts[1:] else value
    return node.replace(**{parts[0]: inner})


def per_column(name: str) -> bool:
    """Whether the columns of a row may show that array of different prompts, so that it packs."""
    return AXES[name].endswith("PD")


def rank_of(name: str) -> int:
    """How many dimensions a named array of one prompt has; plain rows of another name: 2."""
    return len(AXES.get(name, "XPD")) - 1


def axes_of(name: str, config: Any) -> tuple[int | None, ...]:
    """The shape of a named array of one prompt for a T5 of `config`; None: as the method says.

    >>> from prompt_jax.model.sizes import SIZES
    >>> axes_of("encoder_layers/attention/query/a", SIZES["nano"])
    (4, 128, None)
    """
    encoder = name.startswith("encoder")
    sizes = {
        "L": config.num_encoder_layers if encoder else config.num_decoder_layers,
        "D": config.emb_dim,
        "C": config.num_heads * config.head_dim,
        "F": config.mlp_dim,
    }
    return tuple(sizes.get(axis) for axis in AXES[name] if axis != "X")


def arrays_by_name(bundle: PromptBundle) -> dict[str, jax.Array]:
    """Every array of a bundle, with its axis X, those that say what is present among them."""
    leaves = jax.tree_util.tree_flatten_with_path(bundle)[0]
    return {"/".join(key.name for key in path): value for path, value in leaves}


def put(bundle: PromptBundle, name: str, value: Any) -> PromptBundle:
    """The bundle with `value` under a name."""
    return _put(bundle, name.split("/"), value)
