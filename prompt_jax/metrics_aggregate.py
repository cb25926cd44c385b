"""`prompt_jax.metrics.aggregate` under the name that modules of users import."""

from prompt_jax.metrics.aggregate import *  # noqa: F403
