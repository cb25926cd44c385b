"""`prompt_jax.metrics.glue` under the name that modules of users import."""

from prompt_jax.metrics.glue import *  # noqa: F403
