"""Pictures of reports as PNG files, by matplotlib, which the extra `pictures` installs."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from prompt_jax.errors import UserError

DARK = 0.6  # share of the colour range from which on text is white


def check(path: str | None) -> None:
    """Refuses, before any work, a picture that could not be drawn; None: none is wanted."""
    if path is None:
        return
    if not path.endswith(".png"):
        raise UserError(f"--picture={path}", remedy="give the name of a .png file")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            f"--picture={path}",
            "needs matplotlib",
            ("pip install 'prompt-jax[pictures]', or leave it out (--json has the numbers)"),
        )


def _axes(width: float, height: float) -> tuple[Any, Any]:
    """A figure of its own, in inches; nothing global is changed and no display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _write(figure: Any, path: str) -> None:
    place = epath.Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        figure.savefig(file, format="png")


def heat_map(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, path: str
) -> None:
    """A grid of `values` [rows, columns] with its numbers written in; NaN is left white."""
    figure, axes = _axes(2.5 + 0.75 * len(columns), 1.6 + 0.5 * len(rows))
    image = axes.imshow(values, cmap="viridis_r", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    low, high = np.nanmin(values), np.nanmax(values)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = high > low and (value - low) / (high - low) > DARK
            axes.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="white" if dark else "black",
            )
    figure.colorbar(image)
    _write(figure, path)


def bars(values: Sequence[float], names: Sequence[str], title: str, label: str, path: str) -> None:
    """A bar for each name, from zero to the left or the right, with its number."""
    figure, axes = _axes(7.0, 1.4 + 0.4 * len(names))
    places = np.arange(len(names))[::-1]
    colours = ["tab:blue" if value >= 0 else "tab:red" for value in values]
    drawn = axes.barh(places, values, color=colours)
    axes.bar_label(drawn, fmt="%+.1f", padding=3)
    axes.set_yticks(places, names)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.margins(x=0.15)
    axes.set_xlabel(label)
    axes.set_title(title)
    _write(figure, path)
