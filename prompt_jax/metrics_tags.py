"""`prompt_jax.metrics.tags` under the name that modules of users import."""

from prompt_jax.metrics.tags import *  # noqa: F403
