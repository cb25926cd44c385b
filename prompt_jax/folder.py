"""A run's model_dir: one writer, the recipe it was made by, and a signal that asks it to stop."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from etils import epath

from prompt_jax.errors import UserError
from prompt_jax.metrics import is_local


@contextlib.contextmanager
def open_folder(model_dir: str, operative: str) -> Iterator[epath.Path]:
    """The folder, made if need be, locked against a second writer; `config.gin` is written."""
    folder = epath.Path(model_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.gin").write_text(operative)
    except OSError as error:
        raise UserError(
            f"model_dir {model_dir!r} cannot be written ({error.strerror or error}): "
            "give --model_dir a folder of your own"
        ) from None
    with _lock(folder):
        yield folder


@contextlib.contextmanager
def _lock(folder: epath.Path) -> Iterator[None]:
    if not is_local(folder):
        yield
        return
    import fcntl

    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"model_dir {str(folder)!r} is in use by another run: wait, or take another folder"
            ) from None
        yield


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the loop can save and leave."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
