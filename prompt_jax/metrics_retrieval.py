"""`prompt_jax.metrics.retrieval` under the name that modules of users import."""

from prompt_jax.metrics.retrieval import *  # noqa: F403
