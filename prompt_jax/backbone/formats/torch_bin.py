"""PyTorch's `.bin` files, through torch's own loader of weights only: it runs no code of a file."""

import importlib
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import ml_dtypes
import numpy as np

from prompt_jax.backbone.formats import Stored
from prompt_jax.contents import refuse_pointer_at
from prompt_jax.errors import UserError

NEEDS_TORCH = "install torch (pip install 'prompt-jax[parity]'), or save it as safetensors"


class TorchBin:
    """One `.bin` file, memory-mapped: `stored` says what is in it, and reads parts of it."""

    def __init__(self, path: Path):
        try:
            torch: Any = importlib.import_module("torch")  # of the parity extra
        except ImportError as error:
            raise UserError(path, "can be read by torch only", NEEDS_TORCH) from error
        try:
            zipped = zipfile.is_zipfile(path)  # before torch 1.6 it was not, and cannot be mapped
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except FileNotFoundError as error:
            raise UserError(path, "no such file", "copy the checkpoint again") from error
        except UnpicklingError as error:
            refuse_pointer_at(path)
            raise UserError(
                path, "holds more than weights and is not opened", "save it as safetensors"
            ) from error
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            raise UserError(path, "not a whole file of torch", "copy it again") from error
        if not isinstance(tensors, dict):
            raise UserError(path, "holds no table of tensors", "save it as safetensors")
        self._dtypes = {
            torch.float32: np.dtype(np.float32),
            torch.float16: np.dtype(np.float16),
            torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
        }
        self.path = path
        self.stored = {name: self._stored(name, value) for name, value in tensors.items()}

    def _stored(self, name: str, value: Any) -> Stored:
        torch: Any = importlib.import_module("torch")
        if not isinstance(value, torch.Tensor) or value.dtype not in self._dtypes:
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise UserError(self.path, f"'{name}' holds {kind}", "save it as float32 or bfloat16")
        value = value.detach()  # a Parameter asks for gradients
        bits = value.view(torch.int16) if value.dtype is torch.bfloat16 else value
        array = bits.numpy().view(self._dtypes[value.dtype])
        return Stored(array.shape, array.dtype, lambda box: array[box])
