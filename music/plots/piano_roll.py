"""Notes → piano roll; a training history → its curves. Knows nothing of models, nor where the notes come from."""

import csv
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from music import notes as nt
from music import storage
from music.errors import RecordError
from music.notes import Notes
from music.plots import style
from music.plots.style import COLOURS, DASHES, INK, PALE, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_LINE = 75.0  # seconds; longer music is drawn in several lines, like a score
_LINES = 24  # at most; of longer music each line is longer
_MARGIN = 4  # semitones above and below
_SOFT, _LOUD = 20, 110  # velocities of the first and the last colour; softer and louder ones are rare


def piano_roll(music: Notes | Mapping[str, Notes], path: str | os.PathLike, title: str = "") -> None:
    """Draw a piano roll: seconds to the right, pitch upwards, louder notes darker; a line in which nothing sounds is
    left out.

    Args:
        music: Notes, or several parts by name, such as seed and continuation; each has a colour and is in a legend, and
            all but the first have an outline, so that they differ in grey too.
        path: the picture to write.
    """
    from matplotlib.patches import Patch

    parts = music if isinstance(music, Mapping) else {"": music}
    everything = np.concatenate([nt.empty(), *parts.values()])
    low, high = _pitch_range(everything)
    lines, seconds = _lines(everything)
    maps = _maps(len(parts))
    wide = float(np.clip(1 + 0.28 * seconds, 8, 16))
    tall = 1.0 + len(lines) * (0.4 + (0.075 if len(lines) == 1 else 0.045) * (high - low))
    figure = style.figure(wide, tall)
    rolls = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
    for axes, begins in zip(rolls, lines, strict=True):
        _keyboard(axes, low, high)
        for number, (notes, colours) in enumerate(zip(parts.values(), maps, strict=True)):
            _bars(axes, notes[(notes["start"] < begins + seconds) & (notes["end"] > begins)], colours, number > 0)
        axes.set_xlim(begins - 0.01 * seconds, begins + 1.01 * seconds)
    for axes, before, begins in zip(rolls[1:], lines, lines[1:], strict=False):
        if silent := begins - before - seconds:
            axes.set_title(f"{nt.time_text(silent)} without a note left out", loc="left", color=INK, fontsize="small")
    rolls[-1].set_xlabel("seconds" if len(maps) == 1 else "seconds; louder notes are darker")
    rolls[0].set_ylabel("pitch")
    rolls[0].set_title(words(style.clip(title, int(9 * wide))), loc="left", color=INK)
    if len(maps) == 1:
        _velocity_bar(figure, rolls, maps[0])
    if any(parts):
        keys = [
            Patch(facecolor=colours(0.75), edgecolor=INK if number else "none", label=words(style.clip(name)))
            for number, (name, colours) in enumerate(zip(parts, maps, strict=True))
        ]
        rolls[0].legend(
            handles=keys, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(parts), frameon=False, borderaxespad=0.2
        )
    style.save(figure, path)


def losses(
    history: str | os.PathLike,
    path: str | os.PathLike,
    unit: str = "nats a note",
    baselines: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Draw the learning curves of a `history.csv`: its columns epoch, loss and val_loss, and below them its parts.

    A part is any other column `x` that has a `val_x`.

    Args:
        unit: of the losses, "nats a note" or "nats a symbol".
        baselines: losses to compare with, by name, such as {"bigram": 12.3}; each is a line.

    Raises:
        RecordError: the file lacks these columns, or they hold no numbers.
    """
    columns = read_history(history)
    parts = [name for name in columns if name != "loss" and f"val_{name}" in columns]
    figure = style.figure(8, 7 if parts else 4.5)
    above, *below = figure.subplots(2 if parts else 1, 1, sharex=True, squeeze=False)[:, 0]
    for number, (name, value) in enumerate((baselines or {}).items()):
        dash = DASHES[1:][number % (len(DASHES) - 1)]
        above.axhline(value, color=INK, linestyle=dash, linewidth=1.2, label=words(f"{name} {value:.3f}"))
    _curves(above, columns, ["loss"], unit)
    above.set_title(words(title) or "training (pale) and validation (its best in numbers)", loc="left", color=INK)
    for axes in below:
        _curves(axes, columns, parts, unit)
    (below[-1] if below else above).set_xlabel("epoch")
    style.save(figure, path)


def _maps(parts: int) -> "list[Colormap]":
    """Make the colours from soft (0) to loud (1): for one part those of viridis, which change evenly, also in grey; for
    several, each part's colour from pale to full."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    if parts == 1:
        return [LinearSegmentedColormap.from_list("velocity", colormaps["viridis_r"](np.linspace(0.08, 1, 64)))]
    full = [np.array(to_rgb(COLOURS[k % len(COLOURS)])) for k in range(parts)]
    return [
        LinearSegmentedColormap.from_list("part", [1 - 0.3 * (1 - colour), colour, 0.6 * colour]) for colour in full
    ]


def _bars(axes: "Axes", notes: Notes, colours: "Colormap", outlined: bool) -> None:
    """Draw one bar a note. Loud notes lie over soft ones; an edge separates repeated ones."""
    from matplotlib.collections import PolyCollection

    notes = notes[np.argsort(notes["velocity"], kind="stable")]
    left, right = notes["start"], notes["end"]
    bottom, top = notes["pitch"] - 0.42, notes["pitch"] + 0.42
    corners = np.stack([[left, bottom], [left, top], [right, top], [right, bottom]])  # (4, 2, n)
    axes.add_collection(
        PolyCollection(
            corners.transpose(2, 0, 1).tolist(),
            facecolors=colours((notes["velocity"] - _SOFT) / (_LOUD - _SOFT)),
            edgecolors=INK if outlined else "white",
            linewidths=0.5 if outlined else 0.25,
        )
    )


def _velocity_bar(figure: "Figure", rolls: np.ndarray, colours: "Colormap") -> None:
    """Draw the scale of the colours beside the first line."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(_SOFT, _LOUD), colours)
    bar = figure.colorbar(
        scale, ax=list(rolls), extend="both", shrink=0.96 / len(rolls), anchor=(0, 1), aspect=25, pad=0.01
    )
    bar.set_label("velocity")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, length=0)


def _keyboard(axes: "Axes", low: int, high: int) -> None:
    """Draw grey rows for the black keys, a line under each C, and the names of the Cs."""
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
    style.plain(axes)


def _pitch_range(notes: Notes) -> tuple[int, int]:
    """Choose the lowest and the highest pitch to draw: two octaves at least, so that there is a C."""
    low, high = (int(notes["pitch"].min()), int(notes["pitch"].max())) if len(notes) else (60, 72)
    missing = max(24 - (high - low), 0)
    return max(low - missing // 2 - _MARGIN, 0), min(high + missing // 2 + _MARGIN, 127)


def _lines(notes: Notes) -> tuple[list[float], float]:
    """Choose where each line begins and how long each one is, in seconds; silent lines are left out."""
    first = float(np.floor(notes["start"].min())) if len(notes) else 0.0
    seconds = max(nt.length(notes) - first, 1.0)
    if seconds <= _LINE:
        return [first], seconds
    each = float(np.ceil(seconds / np.ceil(seconds / _LINE) / 5) * 5)
    while len(sounding := _sounding(notes, first, each)) > _LINES:
        each += 5 * np.ceil(each / 50)
    return [first + each * k for k in sounding], each


def _sounding(notes: Notes, first: float, each: float) -> list[int]:
    """List the lines in which a note sounds."""
    begin = ((notes["start"] - first) // each).astype("i8")
    last = np.maximum(np.ceil((notes["end"] - first) / each).astype("i8") - 1, begin)
    count = int(last.max()) + 2
    change = np.bincount(begin, minlength=count) - np.bincount(last + 1, minlength=count)
    return np.flatnonzero(np.cumsum(change)).tolist()


def _curves(axes: "Axes", columns: Mapping[str, np.ndarray], names: list[str], unit: str) -> None:
    """Draw training pale and validation full, with its best value in the legend."""
    from matplotlib.ticker import MaxNLocator

    for number, name in enumerate(names):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        validation = columns[f"val_{name}"]
        best = np.min(validation[np.isfinite(validation)], initial=np.inf)
        axes.plot(columns["epoch"], columns[name], linestyle=dash, color=colour, linewidth=1.2, alpha=0.4)
        axes.plot(
            columns["epoch"], validation, marker=".", linestyle=dash, color=colour, linewidth=1.8,
            label=words(f"{name} {best:.3f}"),
        )  # fmt: skip
    axes.set_ylabel(unit)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.15)
    axes.legend(frameon=False, ncols=4, loc="upper right")
    style.plain(axes)


def read_history(history: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the columns of a `history.csv`, float64 [epochs] each; an empty field is NaN.

    Raises:
        RecordError: it lacks epoch, loss or val_loss, or holds no numbers.
    """
    content = storage.read(history)
    try:
        rows = list(csv.DictReader(content.decode().splitlines()))
        columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
        columns["epoch"], columns["loss"], columns["val_loss"]
    except (IndexError, KeyError, TypeError, ValueError, csv.Error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RecordError(f"{history}: expected rows of epoch, loss and val_loss; {reason}") from error
    return columns
