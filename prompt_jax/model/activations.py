"""What a T5 computes between its weights: which of it is saved for the backward pass, and where it
lies on a mesh.

Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198): what lies between two layers is the same
on all chips that split a layer's products, so each keeps some of the columns T. Frozen products
never keep their inputs: only gradients of weights would need them.

Shapes: B rows, T columns, D emb_dim.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

SAVED = "saved"

REMAT = {  # config.remat: what is saved for the backward pass, layer by layer
    "none": None,  # all that it needs
    "full": jax.checkpoint_policies.nothing_saveable,  # a layer's input
    # and queries, keys, values, halves of the MLP, sums: not norms, dropout and attention weights
    "dots": jax.checkpoint_policies.save_only_these_names(SAVED),
}


def saveable(x: jax.Array) -> jax.Array:
    """x, which `dots` saves for the backward pass."""
    return checkpoint_name(x, SAVED)


def within(mesh: Mesh, function: Callable) -> Callable:
    """The function, in which `split` knows the mesh."""

    def inside(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return inside


def unsplit() -> contextlib.AbstractContextManager[Any]:
    """Where `split` knows no mesh: for activations that every chip has whole."""
    return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))


def split(x_BTD: jax.Array) -> jax.Array:
    """x with its columns T over `model` and its features whole, where `within` says of a mesh.

    With `fsdp` alone XLA would split the features as the weights are split, and add up activations
    where it should gather weights.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x_BTD
    spec = PartitionSpec(("data", "fsdp"), "model", None)
    return jax.lax.with_sharding_constraint(x_BTD, spec)
