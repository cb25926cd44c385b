"""`prompt_jax.metrics.text` under the name that modules of users import."""

from prompt_jax.metrics.text import *  # noqa: F403
