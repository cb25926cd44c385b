"""What follows a run that is started by the program or by `prompt_jax.train`."""

from prompt_jax.inspect.tensorboard import TensorBoard
from prompt_jax.run.observe import Observer


def usual() -> list[Observer]:
    """The observers of every run."""
    return [TensorBoard()]
