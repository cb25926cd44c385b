"""What terms ask of each row of the data, beside inputs and targets.

A column names a field of the rows and what becomes of it; `data/columns.py` makes the arrays. Rows
hold one example each. B rows, T encoder columns, K numbers.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """Another text of the row, laid out as its inputs are, with the prompt's columns.

    The batch gets `NAME/encoder_input_tokens` and the other encoder features, int32 [B, T];
    `Forward(batch=NAME)` is a pass over them.
    """

    name: str
    field: str


@dataclass(frozen=True)
class Label:
    """Which of some texts the row's targets are: int32 [B] named `name`, -1 for an empty row."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """Which of some texts the row's targets name, between separators: float32 [B, K] named `name`,
    1 or 0. `NAME/positive`, [B, K], is what a label's positives weigh: negatives / positives of
    the data, 1 where it has none."""

    name: str
    labels: tuple[str, ...]
    separator: str


@dataclass(frozen=True)
class Numbers:
    """Numbers that rows carry, such as cached scores: float32 [B, K] named `name`."""

    name: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Choices:
    """The texts that the row's target was chosen from, but for the target: the example's own
    `choices`, else its task's.

    The batch gets the decoder's features of W = `columns` columns under `NAME/`, int32 [B, W], in
    which each text is a segment and all read the row's one segment of the encoder;
    `Forward(batch=NAME)` is a pass over them, for which nothing is encoded again.

    Attributes:
      columns: of all these texts of a row, EOS and the decoder's prompt rows included.
      skip_longer: a row whose texts take more columns has none; False: it is refused.
    """

    columns: int
    skip_longer: bool = False

    @property
    def name(self) -> str:
        return f"choices_{self.columns}{'_at_most' if self.skip_longer else ''}"


Column = View | Label | Labels | Numbers | Choices
