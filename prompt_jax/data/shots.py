"""Few-shot samples of a task: k examples of every class, or k of all.

A sample depends on the seed, the task's name and the task's examples alone, and that of a smaller k
is part of that of a larger one. Examples keep their order.
"""

import zlib
from collections.abc import Iterable

import numpy as np

from prompt_jax.errors import Setting, UserError
from prompt_jax.splits import typed


def per_class(targets: Iterable[str], k: int, seed: int, task: str) -> list[int]:
    """The numbers of k examples of every target, as few-shot papers draw them, ascending.

    Raises:
      UserError: a target has fewer examples.
    """
    by_target: dict[str, list[int]] = {}
    for i, target in enumerate(targets):
        by_target.setdefault(target, []).append(i)
    chosen = []
    for target, numbers in sorted(by_target.items()):
        if len(numbers) < k:
            raise UserError(
                Setting("Data", "examples_per_class", k),
                f"task {typed(task)!r} has {len(numbers)} of {target!r}",
                "give fewer, or Data.sampled_examples",
            )
        chosen += [numbers[n] for n in _order(len(numbers), seed, f"{task}\n{target}")[:k]]
    return sorted(chosen)


def whatever(count: int, k: int, seed: int, task: str) -> list[int]:
    """The numbers of k of `count` examples, however their targets are spread, ascending.

    Raises:
      UserError: there are fewer.
    """
    if count < k:
        raise UserError(
            Setting("Data", "sampled_examples", k),
            f"task {typed(task)!r} has {count}",
            "give fewer",
        )
    return sorted(int(i) for i in _order(count, seed, task)[:k])


def _order(n: int, seed: int, name: str) -> np.ndarray:
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(n)
