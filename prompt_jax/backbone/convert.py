"""A backbone in another format: written, read again, compared, and only then there."""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from prompt_jax.backbone.formats import Box, Checkpoint, LazyArrays, Quantised, Stored
from prompt_jax.backbone.formats.files import RUN_TIME
from prompt_jax.backbone.formats.store import Store, is_bucket
from prompt_jax.backbone.formats.write import WRITERS
from prompt_jax.backbone.load import digest, digest_of, open_checkpoint
from prompt_jax.errors import RunError, UserError
from prompt_jax.model import quantised

IN_BUCKETS = ("orbax", "t5x")


def convert(
    backbone: str, format: str, output: str, weights_dtype: str | None = None
) -> dict[str, Any]:
    """Writes the backbone of a string in another format, every value as it is held.

    With `weights_dtype` (`quantised.DTYPES`; only for format "orbax") it is a quantised copy: one
    layer of a kernel at a time is rounded, and what a run would hold is what is stored.

    A local folder appears whole or not at all: it is written beside its name as `OUTPUT.partial`
    and renamed once what was written has been read again and found equal, bit by bit. In a bucket
    the file that makes the folder readable is written last.

    Returns:
      What was done: `backbone`, `format`, `output`, `arrays` and `bytes` (counts), `dtypes`, and
      `weights_dtype` of a quantised copy.

    Raises:
      UserError: an unknown format, a backbone that cannot be read, an output that is not empty, a
        quantised copy where the format or the backbone allows none.
    """
    if format not in WRITERS:
        raise UserError(f"--format={format}", "unknown", f"the known ones are {', '.join(WRITERS)}")
    quantised.check(weights_dtype)
    _check_free(output, format)
    source = _rounded(backbone, open_checkpoint(backbone), weights_dtype)
    if source.quantised is not None and format != "orbax":
        raise UserError(
            f"--format={format}",
            f"holds no {source.quantised.weights_dtype} weights",
            "take --format=orbax, or convert the backbone that they were made of",
        )
    if is_bucket(output):
        WRITERS[format](output, source)
        check_equal(source, open_checkpoint(f"{format}:{output}"), output)
    else:
        target = Path(output).expanduser().absolute()
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            WRITERS[format](str(partial), source)
            check_equal(source, open_checkpoint(f"{format}:{partial}"), output)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(target)  # onto an empty folder too
    stored = source.arrays.stored.values()
    return {
        "backbone": backbone,
        "format": format,
        "output": output,
        "arrays": len(stored),
        "bytes": sum(int(np.prod(one.shape)) * one.dtype.itemsize for one in stored),
        "dtypes": sorted({one.dtype.name for one in stored}),
        "weights_dtype": None if source.quantised is None else source.quantised.weights_dtype,
    }


def _rounded(name: str, source: Checkpoint, weights_dtype: str | None) -> Checkpoint:
    """The checkpoint as it will be written: as it is, or with its kernels quantised."""
    stored = None if source.quantised is None else source.quantised.weights_dtype
    kernel_dtype = quantised.held_in(weights_dtype, stored, name)
    if kernel_dtype is None or kernel_dtype == stored:
        return source
    arrays: dict[str, Stored] = {}
    for target, one in source.arrays.stored.items():
        if not quantised.is_large(target.split("/")):
            arrays[target] = one
            continue
        D, F = one.shape
        values = functools.partial(_part, one, kernel_dtype, "qvalue")
        scales = functools.partial(_part, one, kernel_dtype, "scale")
        arrays[f"{target}/qvalue"] = Stored((D, F), jnp.dtype(kernel_dtype), values)
        arrays[f"{target}/scale"] = Stored((1, F), np.dtype(np.float32), scales)
    copy = LazyArrays(arrays)
    of_source = digest_of(name, source, source.arrays)
    return dataclasses.replace(
        source, arrays=copy, quantised=Quantised(kernel_dtype, of_source, digest(copy))
    )


def _part(kernel: Stored, weights_dtype: str, part: str, box: Box) -> np.ndarray:
    """Values or scales of a kernel, quantised as a run quantises it (`weights.build`)."""
    quantised_kernel = quantised.quantise(
        jnp.asarray(kernel.whole().astype(np.float32)), weights_dtype
    )
    return np.asarray(vars(quantised_kernel)[part])[box]


def _check_free(output: str, format: str) -> None:
    if is_bucket(output):
        if format not in IN_BUCKETS:
            known = " and ".join(IN_BUCKETS)
            raise UserError(f"--output={output}", f"only {known} are written to buckets")
        if Store(output).keys():
            raise UserError(f"--output={output}", "holds files", "give an empty folder")
        return
    path = Path(output).expanduser()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        state = "holds files" if path.is_dir() else "is a file"
        raise UserError(f"--output={output}", state, "give a new or an empty folder")


def check_equal(source: Checkpoint, written: Checkpoint, output: str) -> None:
    """What was written reads as the same model, bit by bit."""
    run_time = dict.fromkeys(RUN_TIME)
    if vars(written.config) | run_time != vars(source.config) | run_time:
        raise RunError(f"{output}: the config reads as {written.config}, not {source.config}")
    for name, one in source.arrays.stored.items():
        other = written.arrays.stored[name]
        same = one.dtype == other.dtype and one.shape == other.shape
        if not same or not np.array_equal(_bits(one.whole()), _bits(other.whole())):
            raise RunError(
                f"{output}: '{name}' was not read back as it was written; is the disk sound?"
            )


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.dtype.itemsize}")
