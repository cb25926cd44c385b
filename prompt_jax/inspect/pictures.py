"""Pictures of reports as PNG files, by matplotlib, which the extra `pictures` installs."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from etils import epath

from prompt_jax.errors import UserError

# The style of every picture: a light ground, thin grey lines, and colours that colour-blind
# readers can tell apart: blue for more and red for less than zero.
BLUE, RED, GREY = "#0072b2", "#c0392b", "#666666"
STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DARK = 0.45  # luminance of a cell under which its text is white


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


def _figure(width: float, height: float) -> Any:
    """A figure of its own, in inches; nothing global is changed and no display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure


def _write(draw: Callable[[], Any], path: str) -> None:
    """Writes the figure that `draw` makes, in the style of all."""
    import matplotlib

    place = epath.Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE), place.open("wb") as file:
        draw().savefig(file, format="png")


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    path: str,
    *,
    row_name: str = "",
    column_name: str = "",
    scale: str = "",
    centred: bool = False,
    spread: np.ndarray | None = None,
) -> None:
    """A grid of `values` [rows, columns] with its numbers written in; NaN is left white.

    `row_name`, `column_name` and `scale` say what rows, columns and colours are. `centred`: zero is
    white, more is blue, less is red. `spread` [rows, columns] stands as ± under the numbers.
    """

    def draw() -> Any:
        figure = _figure(3.2 + 0.85 * len(columns), 1.9 + 0.5 * len(rows))
        axes = figure.add_subplot()
        image = _image(axes, values, centred)
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.set(title=title, xlabel=column_name, ylabel=row_name)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                text = f"{value:+.1f}" if centred else f"{value:.2f}"
                if spread is not None and np.isfinite(spread[row, column]):
                    text += f"\n± {spread[row, column]:.1f}"
                red, green, blue, _ = image.cmap(image.norm(value))
                light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
                colour = "white" if light < DARK else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        figure.colorbar(image, label=scale)
        return figure

    _write(draw, path)


def _image(axes: Any, values: np.ndarray, centred: bool) -> Any:
    """Colours from white to blue, or from red over white at zero to blue."""
    if centred:
        most = max(float(np.nanmax(np.abs(values))), 1e-9)
        return axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    return axes.imshow(values, cmap="Blues", aspect="auto")


def bars(
    values: Sequence[float],
    names: Sequence[str],
    title: str,
    label: str,
    path: str,
    intervals: Sequence[tuple[float, float]] | None = None,
) -> None:
    """A bar for each name, from zero to the left or the right, with its number and its interval."""

    def draw() -> Any:
        figure = _figure(7.0, 1.4 + 0.4 * len(names))
        axes = figure.add_subplot()
        _bars(axes, values, names, intervals)
        axes.margins(x=0.15)
        axes.set(title=title, xlabel=label)
        return figure

    _write(draw, path)


def _bars(axes: Any, values, names, intervals=None) -> None:
    places = np.arange(len(names))[::-1]
    errors = None
    if intervals is not None:
        errors = np.abs(np.asarray(intervals, float).T - np.asarray(values, float))
    colours = [BLUE if value >= 0 else RED for value in values]
    drawn = axes.barh(places, values, color=colours, xerr=errors, ecolor=GREY, capsize=3)
    axes.bar_label(drawn, fmt="%+.1f", padding=4)
    axes.set_yticks(places, names)
    axes.axvline(0.0, color="black", linewidth=0.8)


def prompt_panels(report: dict[str, Any], path: str) -> None:
    """What `inspect` reports, a panel for each measurement."""

    def draw() -> Any:
        panels = list(_panels(report))
        columns = 2 if len(panels) > 1 else 1
        lines = -(-len(panels) // columns)
        figure = _figure(5.6 * columns, 3.3 * lines)
        for number, panel in enumerate(panels, start=1):
            panel(figure.add_subplot(lines, columns, number), figure)
        return figure

    _write(draw, path)


def _panels(report: dict[str, Any]) -> Iterator[Callable[[Any, Any], None]]:
    for number, facts in enumerate(report["prompts"]):
        which = f" ({number + 1})" if len(report["prompts"]) > 1 else ""
        for side, found in facts["sides"].items():
            yield partial(_norms, found, facts["norms_of_pieces"], f"Norms: {side}{which}")
            title = f"Cosine between rows: {side}{which}"
            yield partial(_map, np.asarray(facts["similarity"][side]), title, "row", "cosine", True)
        if "attention" in facts:
            mass = 100 * np.asarray(facts["attention"])
            title = f"Attention of the text{which}"
            yield partial(_map, mass, title, "layer", "%", False)
        for side, rows in facts.get("ablation", {}).get("without", {}).items():
            whole = facts["ablation"]["whole"]
            yield partial(_ablated, whole, rows, f"Score without a row: {side}{which}")
    if report.get("drift"):
        yield partial(_drifted, report["drift"])


def _norms(found: dict[str, Any], pieces: dict[str, float], title: str, axes: Any, _: Any) -> None:
    norms = [row["norm"] for row in found["rows"]]
    axes.axhspan(pieces["5 %"], pieces["95 %"], color="#dddddd", label="pieces, 5 to 95 %")
    axes.plot(norms, "o", color=BLUE, markersize=4, label="rows")
    axes.set(title=title, xlabel="row", ylabel="Euclidean norm", ylim=(0, None))
    _count(axes.xaxis)
    axes.legend(frameon=False, loc="best")


def _map(
    values: np.ndarray, title: str, ylabel: str, scale: str, centred: bool, axes: Any, figure: Any
) -> None:
    image = _image(axes, values, centred)
    axes.set(title=title, xlabel="row", ylabel=ylabel)
    _count(axes.xaxis, axes.yaxis)
    figure.colorbar(image, label=scale)


def _count(*counted: Any) -> None:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    for axis in counted:
        axis.set_major_locator(MaxNLocator(integer=True))


def _ablated(
    whole: dict[str, float], rows: Sequence[dict[str, float]], title: str, axes: Any, _: Any
) -> None:
    metric = next(iter(whole))
    changes = [row[metric] - whole[metric] for row in rows]
    colours = [BLUE if change >= 0 else RED for change in changes]
    axes.bar(range(len(changes)), changes, color=colours)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set(title=title, xlabel="row left out", ylabel=f"points of {metric}")
    _count(axes.xaxis)


def _drifted(rows: Sequence[dict[str, Any]], axes: Any, _: Any) -> None:
    sides = [side for side in rows[0] if side != "step"]
    for side, colour in zip(sides, (BLUE, RED), strict=False):
        steps = [row["step"] for row in rows]
        values = [100 * row[side]["relative"] for row in rows]
        axes.plot(steps, values, "o-", color=colour, label=side)
    axes.set(title="Distance from step 0", xlabel="step", ylabel="% of the mean norm at step 0")
    axes.set_ylim(0, None)
    axes.legend(frameon=False)
