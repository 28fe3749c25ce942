"""Notes and training histories → PNG pictures. Knows nothing of models; matplotlib is imported when one is drawn.

Figures are made without pyplot, so nothing is global and no display is needed.
"""

import csv
import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from music import notes as nt
from music import storage
from music.errors import RecordError
from music.notes import Notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE = "#3b3f46", "#e6e8ec"
COLOURS = ("#2f6f8f", "#d1603d", "#5b8c5a", "#8a5a9e", "#b58a2a")
_DPI = 120
_LINE = 75.0  # seconds; longer music is drawn in several lines below each other, as a score is
_MARGIN = 4  # semitones above and below


def piano_roll(music: Notes | Mapping[str, Notes], path: str | os.PathLike, title: str = "") -> None:
    """Draw a piano roll: seconds to the right, pitch upwards, louder notes darker.

    Args:
        music: Notes, or several parts by name, such as seed and continuation; each has a colour and stands in a legend.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    parts = music if isinstance(music, Mapping) else {"": music}
    everything = np.concatenate([nt.empty(), *parts.values()])
    low, high = _pitch_range(everything)
    lines, seconds = _lines(everything)
    wide = float(np.clip(1 + 0.28 * seconds, 8, 16))
    tall = 1.0 + len(lines) * (0.4 + (0.075 if len(lines) == 1 else 0.045) * (high - low))
    figure = Figure(figsize=(wide, tall), dpi=_DPI, layout="constrained")
    for axes, begins in zip(figure.subplots(len(lines), 1, squeeze=False)[:, 0], lines, strict=True):
        _keyboard(axes, low, high)
        for notes, colour in zip(parts.values(), _colours(len(parts)), strict=True):
            _bars(axes, notes[(notes["start"] < begins + seconds) & (notes["end"] > begins)], colour)
        axes.set_xlim(begins - 0.01 * seconds, begins + 1.01 * seconds)
    axes.set_xlabel("seconds")
    figure.axes[0].set_title(title, loc="left", color=INK)
    if any(parts):
        keys = [Patch(color=colour, label=name) for name, colour in zip(parts, _colours(len(parts)), strict=True)]
        figure.axes[0].legend(
            handles=keys, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(parts), frameon=False, borderaxespad=0.2
        )
    _save(figure, path)


def losses(history: str | os.PathLike, path: str | os.PathLike) -> None:
    """Draw the learning curves of a `history.csv`: its columns epoch, loss and val_loss, and below them its parts.

    A part is any other column `x` that has a `val_x`. Raises RecordError: the file has no such columns, or no numbers.
    """
    from matplotlib.figure import Figure

    columns = _numbers(history)
    parts = [name for name in columns if name != "loss" and f"val_{name}" in columns]
    figure = Figure(figsize=(8, 7 if parts else 4.5), dpi=_DPI, layout="constrained")
    above, *below = figure.subplots(2 if parts else 1, 1, sharex=True, squeeze=False)[:, 0]
    _curves(above, columns, ["loss"])
    above.set_title("training (dashed) and validation (solid, its best in numbers)", loc="left", color=INK)
    for axes in below:
        _curves(axes, columns, parts)
    (below[-1] if below else above).set_xlabel("epoch")
    _save(figure, path)


def _bars(axes: "Axes", notes: Notes, colour: str) -> None:
    """One bar a note. Loud notes lie over soft ones, and a line where each begins tells repeated ones apart."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    notes = notes[np.argsort(notes["velocity"], kind="stable")]
    strength = 0.25 + 0.75 * np.clip((notes["velocity"] - 20) / 80, 0, 1)
    shades = 1 - strength[:, None] * (1 - np.array(to_rgb(colour)))
    left, right = notes["start"], notes["end"]
    bottom, top = notes["pitch"] - 0.42, notes["pitch"] + 0.42
    corners = np.stack([[left, bottom], [left, top], [right, top], [right, bottom]])  # (4, 2, n)
    axes.add_collection(
        PolyCollection(corners.transpose(2, 0, 1).tolist(), facecolors=shades, edgecolors="white", linewidths=0.25)
    )


def _keyboard(axes: "Axes", low: int, high: int) -> None:
    """Grey rows for the black keys, a line under each C, and the names of the Cs."""
    for pitch in range(low, high + 1):
        if nt.name(pitch)[1] == "#":
            axes.axhspan(pitch - 0.5, pitch + 0.5, color=PALE, alpha=0.55, linewidth=0, zorder=0)
    octaves = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0]
    for pitch in octaves:
        axes.axhline(pitch - 0.5, color=INK, alpha=0.35, linewidth=0.6, zorder=0)
    axes.set_ylim(low - 0.5, high + 0.5)
    axes.set_yticks(octaves, [nt.name(pitch) for pitch in octaves])
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    _plain(axes)


def _pitch_range(notes: Notes) -> tuple[int, int]:
    """From and to which pitch to draw: two octaves at least, so that there is always a C or two."""
    low, high = (int(notes["pitch"].min()), int(notes["pitch"].max())) if len(notes) else (60, 72)
    missing = max(24 - (high - low), 0)
    return max(low - missing // 2 - _MARGIN, 0), min(high + missing // 2 + _MARGIN, 127)


def _lines(notes: Notes) -> tuple[list[float], float]:
    """Where each line begins, and how long they all are, seconds."""
    first = float(np.floor(notes["start"].min())) if len(notes) else 0.0
    seconds = max(nt.length(notes) - first, 1.0)
    count = int(np.ceil(seconds / _LINE))
    if count == 1:
        return [first], seconds
    each = float(np.ceil(seconds / count / 5) * 5)
    return [first + each * k for k in range(int(np.ceil(seconds / each)))], each


def _curves(axes: "Axes", columns: Mapping[str, np.ndarray], names: list[str]) -> None:
    """Training dashed, validation solid, its best value in the legend."""
    from matplotlib.ticker import MaxNLocator

    for name, colour in zip(names, _colours(len(names)), strict=True):
        validation = columns[f"val_{name}"]
        best = np.min(validation[np.isfinite(validation)], initial=np.inf)
        axes.plot(columns["epoch"], columns[name], "--", color=colour, linewidth=1.2, alpha=0.7)
        axes.plot(columns["epoch"], validation, ".-", color=colour, linewidth=1.8, label=f"{name} {best:.3f}")
    axes.set_ylabel("nats a note")
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.15)
    axes.legend(frameon=False, ncols=len(names), loc="upper right")
    _plain(axes)


def _numbers(history: str | os.PathLike) -> dict[str, np.ndarray]:
    """The columns of a CSV file as float64; an empty field is NaN."""
    rows = list(csv.DictReader(storage.read(history).decode().splitlines()))
    try:
        columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
        columns["epoch"], columns["loss"], columns["val_loss"]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{history}: expected rows of epoch, loss and val_loss, got {error!r}") from error
    return columns


def _colours(count: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, length=0)


def _save(figure: "Figure", path: str | os.PathLike) -> None:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    storage.write(path, out.getvalue())
