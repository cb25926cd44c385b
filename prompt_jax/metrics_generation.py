"""`prompt_jax.metrics.generation` under the name that modules of users import."""

from prompt_jax.metrics.generation import *  # noqa: F403
