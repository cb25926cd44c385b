"""What the splits of one of XTREME's benchmarks share."""

from collections.abc import Callable
from dataclasses import dataclass

from prompt_jax.tasks.layouts import Record
from prompt_jax.tasks.official import DataSet, File

Parts = dict[str, DataSet]
XTREME = "https://github.com/google-research/xtreme"


@dataclass(frozen=True)
class Source:
    """What all splits of a benchmark share; see `DataSet`."""

    folder: str
    home: str
    licence: str
    version: str
    note: str = ""

    def part(
        self,
        split: str,
        *files: File,
        tfds: str = "",
        rows: int | None = None,
        from_tfds: Callable[[Record], Record] = dict,
    ) -> DataSet:
        """One split: its name in TFDS, the files that may hold it, its published number of rows."""
        return DataSet(
            folder=self.folder,
            files={split: files},
            home=self.home,
            tfds=tfds,
            licence=self.licence,
            sizes={} if rows is None else {split: rows},
            from_tfds=from_tfds,
            version=self.version,
            note=self.note,
        )
