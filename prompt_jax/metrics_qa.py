"""`prompt_jax.metrics.qa` under the name that modules of users import."""

from prompt_jax.metrics.qa import *  # noqa: F403
