"""Few-shot samples of a task: k examples of every class, or k of all.

A sample depends on the seed, the task's name and the task's examples alone, and that of a smaller k
is part of that of a larger one. Examples keep their order.
"""

import zlib
from typing import Any

import numpy as np

from prompt_jax.errors import Setting, UserError

Examples = list[dict[str, Any]]


def per_class(examples: Examples, k: int, seed: int, task: str) -> Examples:
    """k examples of every target, as few-shot papers draw them.

    Raises:
      UserError: a target has fewer examples.
    """
    by_target: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        by_target.setdefault(example["targets"], []).append(i)
    kept = []
    for target, numbers in sorted(by_target.items()):
        if len(numbers) < k:
            raise UserError(
                Setting("Data", "examples_per_class", k),
                f"task {task!r} has {len(numbers)} of {target!r}",
                "give fewer, or Data.sampled_examples",
            )
        kept += [numbers[n] for n in _order(len(numbers), seed, f"{task}\n{target}")[:k]]
    return [examples[i] for i in sorted(kept)]


def whatever(examples: Examples, k: int, seed: int, task: str) -> Examples:
    """k examples, however their targets are spread.

    Raises:
      UserError: there are fewer.
    """
    if len(examples) < k:
        raise UserError(
            Setting("Data", "sampled_examples", k),
            f"task {task!r} has {len(examples)}",
            "give fewer",
        )
    return [examples[i] for i in sorted(_order(len(examples), seed, task)[:k])]


def _order(n: int, seed: int, name: str) -> np.ndarray:
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(n)
