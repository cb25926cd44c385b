"""What happens around the optimizer: rules for gradients before it, projections after it."""

import abc
from collections.abc import Mapping
from typing import Any


class GradRule(abc.ABC):
    """Makes one gradient of those of the parts of an objective; each costs a backward pass.

    Attributes:
      needs: names of the terms that a run must have.
    """

    needs: tuple[str, ...] = ()

    @abc.abstractmethod
    def __call__(self, grads: Mapping[str, Any], trainable: Any) -> Any:
        """The gradient; `grads`: by part, `Loss` and the names of the terms, weighted."""


class PostUpdate(abc.ABC):
    """Changes what trains after the optimizer did."""

    @abc.abstractmethod
    def __call__(self, trainable: Any) -> Any: ...
