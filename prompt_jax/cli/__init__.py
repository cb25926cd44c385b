"""The program `prompt-jax`: the only room that knows a flag."""
