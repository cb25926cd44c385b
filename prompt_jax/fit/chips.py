"""The topologies that can be asked for: slices of TPUs, and numbers of GPUs."""

import re
from dataclasses import dataclass

from prompt_jax.errors import UserError
from prompt_jax.model.chips import CHIPS, Chip

KNOWN = "v5e:2x2, v6e:8x8, v4:2x2x2, v5p:4x4x4, h100:8, h200:8 and other sizes of these"
MOST = 8192  # chips


@dataclass(frozen=True)
class Topology:
    """A slice of TPUs or a number of GPUs: `shape` is chips along each axis."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        total = 1
        for side in self.shape:
            total *= side
        return total


def parse(name: str) -> Topology:
    """`v5e:4x4` -> the topology.

    Raises:
      UserError: an unknown chip, another number of axes than the chip has, or sides that hosts do
        not fill.
    """
    kind, _, sides = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
        raise UserError(f"--topology={name}", f"the known ones are {KNOWN}")
    chip, shape = CHIPS[kind], tuple(int(side) for side in sides.split("x"))
    axes = len(chip.host) or 1
    if len(shape) != axes:
        example = "x".join("4" * axes) if axes > 1 else "8"
        raise UserError(f"--topology={name}", f"{kind} has {axes} axes", f"write {kind}:{example}")
    topology = Topology(name, chip, shape)
    if topology.size > MOST:
        raise UserError(f"--topology={name}", f"{topology.size:,} chips", f"give at most {MOST:,}")
    whole = all(side % host == 0 for side, host in zip(shape, chip.host, strict=False))
    if not (whole or topology.size == 1):
        host = "x".join(map(str, chip.host))
        raise UserError(
            f"--topology={name}", remedy=f"give one chip, or multiples of a host's {host} chips"
        )
    return topology
