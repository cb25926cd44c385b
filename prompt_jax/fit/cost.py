"""What one step costs one chip, read off the optimised HLO: FLOPs, HBM traffic, collectives.

XLA's own analysis counts the body of a loop once; here a body counts as often as it runs. FLOPs are
those of matrix products (multiply-add = 2), which is all that the matrix unit does. A fusion moves
what goes in and out of it, and of a stack of layers only the slice that it takes. Arrays that the
compiler holds on the chip itself move nothing.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from prompt_jax.errors import RunError
from prompt_jax.fit.hlo import Array, Computation, Instruction, Module

# Bytes that a chip sends on a ring of k chips, as a multiple of the bytes of the larger side.
_SENT: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda k: 2 * (k - 1) / k,
    "all-gather": lambda k: (k - 1) / k,
    "reduce-scatter": lambda k: (k - 1) / k,
    "all-to-all": lambda k: (k - 1) / k,
    "ragged-all-to-all": lambda k: (k - 1) / k,
    "collective-permute": lambda k: 1.0,
    "collective-broadcast": lambda k: 1.0,
}
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "iota",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "copy-done",
}
_SLICES = ("dynamic-slice", "gather", "slice")


@dataclass
class Cost:
    """Per chip and step.

    Attributes:
      flops: of matrix products.
      hbm: bytes read and written.
      collectives: kind -> (how many, bytes that the chip sends).
    """

    flops: float = 0.0
    hbm: float = 0.0
    collectives: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, other: "Cost", times: float = 1.0) -> None:
        self.flops += times * other.flops
        self.hbm += times * other.hbm
        for kind, (count, sent) in other.collectives.items():
            self.count(kind, times * count, times * sent)

    def count(self, kind: str, count: float, sent: float) -> None:
        had, had_sent = self.collectives.get(kind, (0.0, 0.0))
        self.collectives[kind] = (had + count, had_sent + sent)

    @property
    def sent(self) -> float:
        return sum(sent for _, sent in self.collectives.values())


def cost(module: Module, chips: int, loops: bool = True) -> Cost:
    """The cost of a module on each of `chips`; without `loops` every body counts once."""
    return _Reader(module, chips, loops).computation(module.entry, outside=True)


class _Reader:
    def __init__(self, module: Module, chips: int, loops: bool):
        self.module, self.chips, self.loops = module, chips, loops
        self._known: dict[tuple[str, bool], Cost] = {}

    def computation(self, name: str, outside: bool) -> Cost:
        """`outside`: its instructions move data; within a fusion they do not."""
        key = (name, outside)
        if key not in self._known:
            total, inside = Cost(), self.module.computations[name]
            for one in inside.instructions.values():
                self._instruction(inside, one, outside, total)
            self._known[key] = total
        return self._known[key]

    def _instruction(self, where: Computation, one: Instruction, outside: bool, total: Cost):
        kind = one.opcode.removesuffix("-start")
        if one.opcode == "while":
            body = one.called("body")
            assert body is not None, one.name
            times = self.module.trips(one) if self.loops else 1
            total.add(self.computation(body, outside), times)
            return
        if one.opcode == "conditional":
            for branch in one.branches():
                total.add(self.computation(branch, outside))
            return
        if one.opcode in ("dot", "convolution"):
            total.flops += product_flops(where, one)
        elif kind in _SENT:
            size = max(sum(a.bytes for a in one.arrays), sum(a.bytes for a in inputs(where, one)))
            if one.opcode != kind and len(one.arrays) > 1:  # a start holds its operand as well
                size = max(a.bytes for a in one.arrays)
            k = group_size(one, self.chips)
            total.count(kind, 1, size * _SENT[kind](k))
        called = one.called("calls")
        if called is not None:  # a fusion, or something asynchronous
            total.add(self.computation(called, outside and one.opcode == "async-start"))
        elif one.opcode == "call":
            target = one.called("to_apply")
            assert target is not None, one.name
            total.add(self.computation(target, outside))
            return
        if outside and one.opcode not in _FREE and not one.opcode.endswith("-done"):
            total.hbm += self._moved(where, one)

    def _moved(self, where: Computation, one: Instruction) -> float:
        """Bytes of HBM that an instruction outside of fusions reads and writes."""
        called = one.called("calls")
        if one.opcode in _SLICES:
            return 2 * _slow(one.arrays)
        if one.opcode == "dynamic-update-slice":
            return 2 * _slow(where.instructions[one.operands[1]].arrays)
        if called is None or one.opcode == "async-start":
            reads = _slow(inputs(where, one))
            # A start's shape repeats its operand.
            return reads + (reads if one.opcode.endswith("-start") else _slow(one.arrays))
        inner = self.module.computations[called]
        reads = 0.0
        for number, name in enumerate(one.operands):
            arrays = where.instructions[name].arrays
            parameter = inner.parameters().get(number)
            if parameter is not None and _slow(arrays):
                reads += min(_slow(arrays), self._read(inner, parameter.name))
        return reads + self._written(inner, one)

    def _read(self, inner: Computation, name: str) -> float:
        """Bytes of a fusion's parameter that it reads: of slices, what they take."""
        total = 0.0
        for user in inner.users(name):
            called = user.called("calls")
            if user.opcode == "bitcast":
                total += self._read(inner, user.name)
            elif user.opcode in _SLICES and user.operands[0] == name:
                total += sum(a.bytes for a in user.arrays)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue  # written in place
            elif called is not None:
                within = self.module.computations[called]
                for number, operand in enumerate(user.operands):
                    if operand == name:
                        total += self._read(within, within.parameters()[number].name)
            else:
                return math.inf
        return total

    def _written(self, inner: Computation, one: Instruction) -> float:
        root = inner.root
        roots = [inner.instructions[n] for n in root.operands] if root.opcode == "tuple" else [root]
        if len(roots) != len(one.arrays):
            return _slow(one.arrays)
        total = 0.0
        for made, array in zip(roots, one.arrays, strict=True):
            while made.opcode == "bitcast":
                made = inner.instructions[made.operands[0]]
            if array.fast:
                continue
            if made.opcode == "dynamic-update-slice":
                total += sum(a.bytes for a in inner.instructions[made.operands[1]].arrays)
            else:
                total += array.bytes
        return total


def _slow(arrays: tuple[Array, ...]) -> float:
    return sum(a.bytes for a in arrays if not a.fast)


def inputs(where: Computation, one: Instruction) -> tuple[Array, ...]:
    return tuple(a for name in one.operands for a in where.instructions[name].arrays)


def product_flops(where: Computation, one: Instruction) -> float:
    """2 * multiply-adds of a `dot` or a `convolution`."""
    left, right = (where.instructions[name].arrays[0] for name in one.operands[:2])
    out = one.arrays[0]
    if one.opcode == "dot":
        match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
        dims = [int(d) for d in match[1].split(",")] if match and match[1] else []
        return 2.0 * out.size * math.prod(left.dims[d] for d in dims)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    if labels is None:
        raise RunError(f"cannot read the compiled step: {one.name} has no dim_labels")
    lhs, rhs, res = labels.groups()
    pairs = 1
    for axis in sorted(set(lhs) - set("bf")):
        sizes = (left.dims[lhs.index(axis)], right.dims[rhs.index(axis)])
        pairs *= _pairs(*sizes, out.dims[res.index(axis)], _window(one.attributes, int(axis)))
    features = right.dims[rhs.index("i")]
    return 2.0 * out.dims[res.index("b")] * out.dims[res.index("f")] * features * pairs


def _window(attributes: str, axis: int) -> dict[str, str]:
    """The window of one spatial axis: `size`, `stride`, `pad`, `lhs_dilate`, `rhs_dilate`."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(f.split("=") for f in match[1].split()) if match else {}
    return {name: sides.split("x")[axis] for name, sides in fields.items()}


def _pairs(size: int, window: int, out: int, fields: dict[str, str]) -> int:
    """How many (output, window) places of an axis meet an element that is there: no padding and no
    hole of a dilated input. TPUs write batched products as convolutions full of both."""
    stride, dilate = int(fields.get("stride", 1)), int(fields.get("lhs_dilate", 1))
    spread = int(fields.get("rhs_dilate", 1))
    low = int(fields["pad"].split("_")[0]) if "pad" in fields else 0
    length, count = (size - 1) * dilate + 1, 0
    for o in range(out):
        for w in range(window):
            at = o * stride - low + w * spread
            count += 0 <= at < length and at % dilate == 0
    return count


def group_size(one: Instruction, chips: int) -> int:
    """Chips that take part in a collective together: all notations of XLA's replica groups."""
    text = one.attributes
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text)
    if mesh:
        sides = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        parts = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh[2])
        return math.prod(int(size or sides[axis]) for axis, _, size in parts)
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", text)
    if tiled:
        return int(tiled[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    if listed:
        return len(listed[1].split(","))
    return chips
