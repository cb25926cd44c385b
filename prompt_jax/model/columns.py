"""What a bundle does to the columns of a batch: rows in their places, edits of each row's prompt.

Shapes: X prompts, P prompt rows or keys, D model width, B rows of a batch, T columns, N places of a
text, C heads times head width, L layers, H heads, K head width.
"""

import dataclasses

import jax
import jax.numpy as jnp

from prompt_jax.model.bundle import AttentionEdit, LayerEdit, PromptBundle, Visibility


def of_row(x_X: jax.Array, ids_B: jax.Array | None) -> jax.Array:
    """What each row's prompt has of an array [X, ...]: [B, ...], or [...] where there is one."""
    if len(x_X) == 1:
        return x_X[0]
    if ids_B is None:
        raise ValueError(f"{len(x_X)} prompts, and no prompt_ids in the batch")
    return x_X[ids_B]


def picked(edit: LayerEdit, ids_B: jax.Array | None, ids_BT: jax.Array | None = None) -> LayerEdit:
    """One layer's edit with the arrays of each row's prompt: X gives way to B, or to nothing where
    there is one prompt. Rows that enter layers keep X: their columns pick for themselves. Where
    only the columns say whose they are, the keys of all prompts are there, and every column sees
    those of its own.

    Raises:
      ValueError: there are several prompts and the batch does not say whose each row is.
    """
    if ids_B is None and ids_BT is not None:
        attention, cross = (_all_keys(a, ids_BT) for a in (edit.attention, edit.cross))
        edit = dataclasses.replace(edit, attention=attention, cross=cross)
    chosen = jax.tree.map(
        lambda x: of_row(x, ids_B), dataclasses.replace(edit, rows=None, added=None, replaces=None)
    )
    return dataclasses.replace(chosen, rows=edit.rows, added=edit.added, replaces=edit.replaces)


def _all_keys(edit: AttentionEdit, ids_BT: jax.Array) -> AttentionEdit:
    """One layer's keys of all prompts as those of one, [1, X * P, C], present where a column has
    that prompt: [1, B, T, X * P]. As it is where there is one prompt, or no key."""
    if edit.keys is None or edit.values is None or len(edit.keys) == 1:
        return edit
    X, P, C = edit.keys.shape
    present_BTX1 = (ids_BT[:, :, None] == jnp.arange(X)[None, None])[..., None]
    present_XP = jnp.ones((X, P), bool) if edit.present is None else edit.present
    present = present_BTX1 & present_XP[None, None]
    return dataclasses.replace(
        edit,
        keys=edit.keys.reshape(1, X * P, C),
        values=edit.values.reshape(1, X * P, C),
        present=present.reshape(1, *ids_BT.shape, X * P),
    )


def insert_rows(
    x_BTD: jax.Array, rows_XPD: jax.Array | None, slots_BT: jax.Array | None, ids_BT
) -> jax.Array:
    """Puts prompt rows into their columns: x where slots are 0, row `slots - 1` elsewhere.

    Rows are cast to x's dtype here and nowhere else; the gradient of a row is the sum over every
    column that shows it, which is what packing needs. `ids_BT` (int32) picks among X prompts; None
    means prompt 0.
    """
    if rows_XPD is None or slots_BT is None:
        return x_BTD
    return jnp.where(slots_BT[..., None] > 0, _spread(x_BTD, rows_XPD, slots_BT, ids_BT), x_BTD)


def offset_text(
    x_BTD: jax.Array, offset_XND: jax.Array | None, places_BT: jax.Array, ids_BT: jax.Array | None
) -> jax.Array:
    """Adds to each column of text its prompt's offset for its place, int32, -1 where no text is."""
    if offset_XND is None:
        return x_BTD
    prompts, length, width = offset_XND.shape
    index_BT = places_BT if prompts == 1 or ids_BT is None else ids_BT * length + places_BT
    there_BT1 = ((places_BT >= 0) & (places_BT < length))[..., None]
    rows_BTD = offset_XND.reshape(prompts * length, width).astype(x_BTD.dtype)[index_BT]
    return x_BTD + jnp.where(there_BT1, rows_BTD, 0)


def places_of(segments_BT: jax.Array, slots_BT: jax.Array | None) -> jax.Array:
    """int32 [B, T]: the place of each column of text in its example's, from 0; -1 where none is."""
    text_BT = segments_BT > 0
    text_BT = text_BT if slots_BT is None else text_BT & (slots_BT == 0)
    count_BT = jnp.cumsum(text_BT, axis=1, dtype=jnp.int32)
    before_BT = jnp.pad(segments_BT[:, :-1], ((0, 0), (1, 0)))
    starts_BT = jnp.where(segments_BT != before_BT, count_BT - text_BT, 0)
    return jnp.where(text_BT, count_BT - 1 - jax.lax.cummax(starts_BT, axis=1), -1)


def enter(
    x_BTD: jax.Array, edit: LayerEdit, slots_BT: jax.Array | None, ids_BT: jax.Array | None
) -> jax.Array:
    """What enters a layer: x, its prompt columns replaced or added to as the layer's edit says."""
    slots = slots_BT
    if edit.replaces is not None and slots_BT is not None and ids_BT is not None:
        slots = jnp.where(edit.replaces[jnp.maximum(ids_BT, 0)], slots_BT, 0)
    x_BTD = insert_rows(x_BTD, edit.rows, slots, ids_BT)
    if edit.added is None or slots_BT is None:
        return x_BTD
    added = _spread(x_BTD, edit.added, slots_BT, ids_BT)
    return jnp.where(slots_BT[..., None] > 0, x_BTD + added, x_BTD)


def _spread(x_BTD, rows_XPD, slots_BT, ids_BT) -> jax.Array:
    """[B, T, D] in x's dtype: the row of every prompt column, and row 0 elsewhere."""
    prompts, length, width = rows_XPD.shape
    if prompts == 1 or ids_BT is None:
        index_BT = jnp.maximum(slots_BT - 1, 0)
    else:
        index_BT = jnp.maximum(ids_BT, 0) * length + jnp.maximum(slots_BT - 1, 0)
    return rows_XPD.reshape(prompts * length, width).astype(x_BTD.dtype)[index_BT]


def with_keys_values(bundle: PromptBundle, own, cross) -> PromptBundle:
    """The bundle of rows that have been computed once: `own` and `cross` are the keys and values,
    [L, X, P, H, K] each, that the encoder's text and the decoder see of them.

    Raises:
      ValueError: the bundle has other such keys, or does not say where its rows stand.
    """
    attention, cross_edit = bundle.encoder_layers.attention, bundle.decoder_layers.cross
    if attention.keys is not None or cross_edit.keys is not None:
        raise ValueError("rows that are computed once, beside other keys")
    if bundle.encoder_positions is None:
        raise ValueError("rows that are computed once, and no encoder_positions")
    (k, v), (cross_k, cross_v) = (
        [x.reshape(*x.shape[:3], -1) for x in pair] for pair in (own, cross)
    )
    attention = dataclasses.replace(attention, keys=k, values=v)
    cross_edit = dataclasses.replace(cross_edit, keys=cross_k, values=cross_v)
    encoder_layers = dataclasses.replace(
        bundle.encoder_layers, rows=None, added=None, replaces=None, attention=attention
    )
    return dataclasses.replace(
        bundle,
        encoder=None,
        encoder_layers=encoder_layers,
        decoder_layers=dataclasses.replace(bundle.decoder_layers, cross=cross_edit),
        visibility=Visibility(),
    )


def visible(policy: Visibility, slots_BT: jax.Array | None) -> jax.Array | None:
    """The policy as a mask, bool [B, T, T] (query, key), or None where everything is visible."""
    if slots_BT is None or (policy.input and policy.prompt == "all"):
        return None
    query, key = slots_BT[:, :, None], slots_BT[:, None, :]
    to_prompt = {"all": key > 0, "causal": key <= query, "self": key == query}[policy.prompt]
    from_prompt = jnp.where(key > 0, to_prompt, policy.input)
    return jnp.where(query > 0, from_prompt, True)
