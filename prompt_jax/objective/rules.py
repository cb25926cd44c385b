"""What happens around the optimizer: rules for gradients before it, projections after it.

Both are optax transformations with extra arguments (`optax.GradientTransformationExtraArgs`):

    update(gradient, state, params, *, parts, key, step) -> (gradient, state)

`params` is what trains; `parts` holds the gradient of each part of the objective, `Loss` and the
names of the terms, weighted, where the rule asks for them; `key` is a key of the step, the same on
every host and never the one of dropout; `step` is int32. A rule's state is checkpointed with the
optimizer's.
"""

import abc
from typing import Any

import jax
import optax
from flax import nnx

from prompt_jax.methods.base import TermParam


class GradRule(abc.ABC):
    """Makes another gradient of that of the whole objective.

    Attributes:
      needs: names of the terms that a run must have.
      apart: whether the gradient of each part is wanted; each costs a backward pass.
    """

    needs: tuple[str, ...] = ()
    apart: bool = False

    @abc.abstractmethod
    def build(self) -> optax.GradientTransformationExtraArgs:
        """The transformation."""


class NoRule(GradRule):
    """The gradient as it is; nothing is kept between steps."""

    def build(self) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optax.identity())


class PostUpdate(abc.ABC):
    """A projection: the last link of the optimizer's chain."""

    @abc.abstractmethod
    def __call__(self, params: Any) -> Any:
        """What trains, projected."""

    def build(self) -> optax.GradientTransformation:
        """Makes u into project(p + u) - p. What a term owns (`TermParam`) is not projected.

        The parameters that come out are p + (project(p + u) - p), which may differ from
        project(p + u) in the last bit.
        """

        def update(updates: Any, params: Any) -> Any:
            moved = self(optax.apply_updates(params, updates))

            def change(param, update, after):
                if isinstance(param, TermParam):
                    return update
                return jax.tree.map(lambda a, p: a - p, after, param)

            is_leaf = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
            return jax.tree.map(change, params, updates, moved, is_leaf=is_leaf)

        return optax.stateless(update)
