"""Optimised HLO as XLA prints it: computations, their instructions, and how often each runs.

Costs are in `cost.py`; here is only the text. https://openxla.org/xla/operation_semantics.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from prompt_jax.errors import RunError

BITS = {"pred": 8, "token": 0, "opaque": 0, "s4": 4, "u4": 4}  # others say theirs in their name
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"(calls|to_apply|condition|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Array:
    """One array of a shape: `fast` is on the chip, outside of HBM (TPU memory space 1)."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = BITS.get(self.dtype)
        if bits is None:
            bits = int(re.sub(r"^\D+", "", self.dtype.partition("_")[0].split("e")[0]))
        return self.size * bits // 8


@dataclass(frozen=True)
class Instruction:
    """`name = shape opcode(operands), attributes`; `arrays` are the leaves of its shape."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    root: bool

    def called(self, role: str) -> str | None:
        return dict(_CALLED.findall(self.attributes)).get(role)

    def branches(self) -> list[str]:
        match = _BRANCHES.search(self.attributes)
        return [] if match is None else [n.strip().lstrip("%") for n in match[1].split(",")]


@dataclass
class Computation:
    """Instructions by name, in their order."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.root)

    def users(self, name: str) -> list[Instruction]:
        return [i for i in self.instructions.values() if name in i.operands]

    def parameters(self) -> dict[int, Instruction]:
        ordered = (i for i in self.instructions.values() if i.opcode == "parameter")
        return {int(i.arguments): i for i in ordered}


@dataclass
class Module:
    """A compiled program."""

    computations: dict[str, Computation]
    entry: str

    def trips(self, loop: Instruction) -> int:
        """How often the body of a `while` runs: as XLA notes it, else the bound that its condition
        compares a counter with. A loop that may end earlier (decoding) has its bound.

        Raises:
          RunError: the condition compares with no constant.
        """
        known = _TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        condition = loop.called("condition")
        bounds = [] if condition is None else list(self._constants(condition))
        if not bounds:
            raise RunError(f"cannot read the compiled step: the loop {loop.name} has no bound")
        return max(bounds)

    def _constants(self, name: str) -> Iterator[int]:
        for one in self.computations[name].instructions.values():
            if one.opcode == "constant" and one.arrays[0].dtype in ("s32", "u32"):
                yield int(one.arguments)
            called = one.called("calls")
            if called is not None:
                yield from self._constants(called)


def parse(text: str) -> Module:
    """The module of `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            opened = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if opened:
                current = computations[opened[2]] = Computation(opened[2])
                entry = opened[2] if opened[1] else entry
        elif line.startswith("}"):
            current = None
        else:
            one = _instruction(line)
            if one is not None:
                current.instructions[one.name] = one
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    arguments, attributes = rest[opening + 1 : closing], rest[closing + 1 :]
    operands = () if rest.startswith("constant(") else tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(
        head[2], rest[:opening], arrays_of(shape), operands, arguments, attributes, bool(head[1])
    )


def arrays_of(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape as XLA writes it: `bf16[2,3]{1,0:T(8,128)(2,1)S(1)}`, or a tuple."""
    arrays = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        sides = tuple(int(re.sub(r"\D", "", d)) for d in dims.split(",") if d)
        arrays.append(Array(dtype, sides, "S(1)" in layout))
    return tuple(arrays)


def _closing(text: str, opening: int) -> int:
    """The place of the bracket that closes the one at `opening`."""
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise RunError(f"cannot read the compiled step: {text[:60]!r} has no closing bracket")
