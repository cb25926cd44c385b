"""What a compiled step makes of its frozen weights, for the tests of `fit`."""

import jax

from prompt_jax.fit import hlo

# What moves a weight on, or a layer of it, without another copy in memory.
PASSED = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "while",
    "bitcast",
    "dynamic-slice",
    "fusion",
    "call",
    "transpose",
    "constant",
    "slice",
    "reshape",
    "copy",
    "copy-start",
    "copy-done",
}


def large_shapes(program) -> set[tuple[int, ...]]:
    """Shapes of frozen matrices, whole stacks and single layers, and their transposes."""
    found = set()
    for x in jax.tree.leaves(program.frozen):
        if len(x.shape) >= 2 and x.size >= 128 * 128:
            found |= {x.shape, x.shape[-2:]}
    return found | {(*s[:-2], s[-1], s[-2]) for s in found}


def made(program, text: str) -> list[hlo.Instruction]:
    """Instructions of a compiled step (`as_text`) that make an array of a frozen matrix's shape:
    its gradient, an update of it, or a copy of a whole stack of layers."""
    shapes, makers = large_shapes(program), []
    for computation in hlo.parse(text).computations.values():
        for one in computation.instructions.values():
            slow = [a.dims for a in one.arrays if a.dims in shapes and not a.fast]
            copies = one.opcode in ("copy", "transpose", "fusion") and any(
                len(d) == 3 for d in slow
            )
            if copies or (slow and one.opcode not in PASSED):
                makers.append(one)
    return makers
