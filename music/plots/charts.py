"""Statistics → pictures: distributions of one or several sets of music, bars of composers and of chords.

Distributions and chords are drawn as shares, so that a short piece can be compared with a corpus. Knows no file but the
picture that it writes.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from music import notes as nt
from music.analysis.statistics import Histogram, Statistics
from music.encodings import chords as ch
from music.errors import MusicError
from music.plots import style
from music.plots.style import COLOURS, DASHES, INK, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP = 20  # bars by default
_MOST = 500  # bars; with many more a PNG would be too large
_SHORT = 0.016  # seconds; all that is shorter is one bar, as a logarithmic axis has no 0
_NARROW = 4  # velocities in a bar: many instruments do not use all of them
_PLENTY = 5_000  # notes; with fewer, a bar for each semitone is mostly chance
_PIANO = (21, 109)  # A0 to C8
_TICKS = [digit * 10.0**decade for decade in range(-2, 6) for digit in (1, 2, 5)]
_KINDS = ("single notes", "octaves and intervals", "three pitch classes and more")


def distributions(sets: Mapping[str, Statistics], path: str | os.PathLike, title: str = "") -> None:
    """Draw how pitch, velocity, step, duration and, where all sets have several pieces, their lengths are distributed.

    Args:
        sets: one to six, by name; the first one is filled.
        path: the picture to write.

    Raises:
        MusicError: no set, too many of them, or one without notes.
    """
    if not 0 < len(sets) <= len(COLOURS):
        raise MusicError(f"expected 1 to {len(COLOURS)} sets of music beside each other, got {len(sets)}")
    for name, music in sets.items():
        if not music.notes:
            raise MusicError(f"{name}: no notes, so there is nothing to draw")
    panels = {"pitch": _pitch, "velocity": _velocity, "step": _step, "duration": _duration}
    if min(music.pieces for music in sets.values()) > 1:
        panels["notes_per_piece"] = _notes_per_piece
    rows = (len(panels) + 1) // 2
    figure = style.figure(11, 0.6 + (2.8 + 0.16 * len(sets)) * rows + 0.2 * len(sets) * (len(panels) % 2 == 0))
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, (name, draw) in zip(grid, panels.items(), strict=False):
        medians = draw(axes, [music.histograms[name] for music in sets.values()])
        axes.set_ylabel("pieces, %" if draw is _notes_per_piece else "notes, %")
        _draw_medians(axes, list(sets), medians)
        _finish(axes, "y")
    _legend(figure, grid[-1] if len(panels) % 2 else None, title, sets)
    style.save(figure, path)


def composers(pieces: Mapping[str, int], path: str | os.PathLike, top: int = TOP, title: str = "") -> None:
    """Draw the number of pieces of each composer: bars for the `top` most frequent ones, a sum for the others.

    Raises:
        MusicError: there is no composer.
    """
    if not pieces:
        raise MusicError("nothing tells of composers")
    _check(top)
    total = sum(pieces.values())
    figure = style.figure(8, 1.2 + 0.27 * min(top + 1, len(pieces)))
    axes = figure.subplots()
    _bars(axes, pieces, top, lambda name: words(style.clip(name, 48)), lambda count: f"{count:,}")
    axes.set_xlabel("pieces")
    axes.set_title(words(title or f"{total:,} pieces by {len(pieces):,} composers"), loc="left", color=INK)
    style.save(figure, path)


def chords(counts: Mapping[str, int], path: str | os.PathLike, top: int = TOP, title: str = "") -> None:
    """Draw what begins together how often: single notes, intervals, and chords of three and more, the `top` of each.

    Args:
        counts: by symbol, as music/encodings/chords.py writes them.

    Raises:
        MusicError: there is no chord.
        EncodingError: a symbol is not one of chords.py.
    """
    total = sum(counts.values())
    if not total:
        raise MusicError("nothing tells of chords")
    _check(top)
    kinds: dict[str, dict[str, int]] = {}
    for symbol, count in counts.items():
        kinds.setdefault(_kind(symbol), {})[symbol] = count
    kinds = {kind: kinds[kind] for kind in _KINDS if kind in kinds}
    bars = min(top + 1, max(len(group) for group in kinds.values()))
    figure = style.figure(4.6 * len(kinds), 1.6 + 0.27 * bars)
    for axes, (kind, group) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        _bars(axes, group, top, _spell, lambda count: f"{100 * count / total:.2f} %")
        axes.set_xlabel("times")
        axes.set_title(f"{kind}: {100 * sum(group.values()) / total:.0f} %", loc="left", color=INK, fontsize=11)
    summary = f"{total:,} notes and chords (begun within {1000 * ch.TOLERANCE:.0f} ms) of {len(counts):,} kinds"
    figure.suptitle(words(title or summary), color=INK)
    style.save(figure, path)


# --- distributions -----------------------------------------------------------------------------------------------


def _pitch(axes: "Axes", histograms: list[Histogram]) -> list[tuple[float, str]]:
    """Draw a bar a semitone, over the piano's keys at least; in a comparison with little music, a bar for three.

    Returns, as the functions below: each median's position on the axis, and its text.
    """
    semitones = 1 if len(histograms) == 1 or min(h.counts.sum() for h in histograms) > _PLENTY else 3
    for number, histogram in enumerate(histograms):
        edges, counts = _merge(histogram, histogram.edges % semitones == 0)
        _draw_shares(axes, number, edges - 0.5, counts)  # a bar is centred over its number
    low, high = _range(histograms)
    axes.set_xlim(min(low, _PIANO[0]) - 0.5, max(high, _PIANO[1]) - 0.5)
    octaves = [pitch for pitch in range(0, 128, 12) if axes.get_xlim()[0] <= pitch <= axes.get_xlim()[1]]
    axes.set_xticks(octaves, [nt.name(pitch) for pitch in octaves])
    axes.set_xlabel("pitch" if semitones == 1 else f"pitch, a bar for {semitones} semitones")
    medians = [histogram.median() // 1 for histogram in histograms]
    return [(pitch, f"{nt.name(int(pitch))} ({pitch:.0f})") for pitch in medians]


def _velocity(axes: "Axes", histograms: list[Histogram]) -> list[tuple[float, str]]:
    for number, histogram in enumerate(histograms):
        _draw_shares(axes, number, *_merge(histogram, histogram.edges % _NARROW == 0))
    axes.set_xlim(0, 128)
    axes.set_xticks(range(0, 129, 16))
    axes.set_xlabel(f"velocity, a bar for {_NARROW}")
    return [(histogram.median() // 1, f"{histogram.median() // 1:.0f}") for histogram in histograms]


def _step(axes: "Axes", histograms: list[Histogram]) -> list[tuple[float, str]]:
    axes.set_xlabel("step: time from one onset to the next, s")
    return _times(axes, histograms)


def _duration(axes: "Axes", histograms: list[Histogram]) -> list[tuple[float, str]]:
    axes.set_xlabel("duration: time that a note sounds, s")
    return _times(axes, histograms)


def _times(axes: "Axes", histograms: list[Histogram]) -> list[tuple[float, str]]:
    """Draw five bars a decade from 16 ms on, which times on a grid of 10 ms fill as evenly as others; to their left one
    bar for all that is shorter. The share of the longest thousandth is only printed.
    """
    short, medians = np.log10(_SHORT) + np.array([-0.27, -0.07]), []
    end = min(
        (tick for tick in _TICKS if tick >= 2 and _largest_share_from(histograms, tick) < 0.001), default=_TICKS[-1]
    )
    for number, histogram in enumerate(histograms):
        tenths = np.rint(10 * np.log10(np.maximum(histogram.edges, _SHORT / 2) / 1e-3))  # of a decade above 1 ms
        edges, counts = _merge(histogram, (histogram.edges >= _SHORT) & (tenths % 2 == 0))
        total = max(int(counts.sum()), 1)
        _draw_shares(axes, number, short, counts[:1], total)
        _draw_shares(axes, number, np.log10(edges[1:]), counts[1:], total)
        median, longer = histogram.median(), _largest_share_from([histogram], end)
        text = "none" if np.isnan(median) else f"{median:.2g} s"
        text += f", {100 * longer:.2g} % over {end:g} s" if longer else ""
        medians.append((short.mean() if median < _SHORT else np.log10(median), text))
    axes.set_xlim(short[0] - 0.08, np.log10(end))
    ticks = [tick for tick in _TICKS if 2 * _SHORT <= tick <= end]
    axes.set_xticks([short.mean(), *np.log10(ticks)], [f"<{_SHORT:g}", *(f"{tick:g}" for tick in ticks)])
    return medians


def _notes_per_piece(axes: "Axes", histograms: list[Histogram]) -> list[tuple[float, str]]:
    for number, histogram in enumerate(histograms):
        _draw_shares(axes, number, np.log10(histogram.edges), histogram.counts)
    low, high = _range(histograms)
    axes.set_xlim(np.log10(low) - 0.1, np.log10(high) + 0.1)
    ticks = [tick for tick in _TICKS if low / 1.2 <= tick <= high * 1.2]
    ticks = ticks if len(ticks) < 9 else [tick for tick in ticks if np.log10(tick) % 1 == 0]
    axes.set_xticks(np.log10(ticks), [f"{tick:,.0f}" for tick in ticks])
    axes.set_xlabel("notes in a piece, two bars an octave")
    medians = [histogram.median() for histogram in histograms]
    return [(np.log10(median), f"{float(f'{median:.2g}'):,.0f}") for median in medians]


def _draw_shares(axes: "Axes", number: int, edges: np.ndarray, counts: np.ndarray, total: int = 0) -> None:
    """Draw the shares of one set; each set has its own line, and the first one's shares are filled."""
    shares = 100 * counts / max(total or counts.sum(), 1)
    if number == 0:
        axes.stairs(shares, edges, fill=True, color=COLOURS[0], alpha=0.3, linewidth=0)
    axes.stairs(shares, edges, color=COLOURS[number], linestyle=DASHES[number], linewidth=1.5)


def _draw_medians(axes: "Axes", names: list[str], medians: list[tuple[float, str]]) -> None:
    """Draw a line at each median, and its text above the panel, where it covers no bar."""
    for number, (name, (at, text)) in enumerate(zip(names, medians, strict=True)):
        axes.axvline(at, color=COLOURS[number], linestyle=DASHES[number], linewidth=0.9, alpha=0.8)
        axes.annotate(
            ("median " if len(names) == 1 else f"{words(style.clip(name))}: median ") + text,
            (1, 1), (0, 3 + 12 * (len(names) - 1 - number)), "axes fraction", "offset points",
            color=COLOURS[number], ha="right", va="bottom", fontsize=9,
        )  # fmt: skip


def _merge(histogram: Histogram, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge bins: remove the edges where `keep` is false, except the first and the last, and add up the counts."""
    keep = keep.copy()
    keep[[0, -1]] = True
    remaining = np.flatnonzero(keep)
    return histogram.edges[remaining], np.add.reduceat(histogram.counts, remaining[:-1])


def _range(histograms: list[Histogram]) -> tuple[float, float]:
    """Find the lowest and the highest edge of the bins that are not empty; 1 and 2 if all are."""
    filled = [(h.edges[:-1][h.counts > 0], h.edges[1:][h.counts > 0]) for h in histograms if h.counts.any()]
    if not filled:
        return 1.0, 2.0
    return min(low.min() for low, _ in filled), max(high.max() for _, high in filled)


def _largest_share_from(histograms: list[Histogram], value: float) -> float:
    """Compute the largest share of a histogram that lies in bins from `value` on."""
    return max(h.counts[h.edges[:-1] >= value].sum() / max(h.counts.sum(), 1) for h in histograms)


def _legend(figure: "Figure", room: "Axes | None", title: str, sets: Mapping[str, Statistics]) -> None:
    """Draw the sets' names and sizes, in the panel that is not used (`room`) or else above all panels."""
    from matplotlib.lines import Line2D

    keys = [
        Line2D(
            [], [], color=colour, linestyle=dash, linewidth=2, label=words(f"{style.clip(name, 80)}: {_size(music)}")
        )
        for (name, music), colour, dash in zip(sets.items(), COLOURS, DASHES, strict=False)
    ]
    options = {
        "handles": keys,
        "frameon": False,
        "handlelength": 3,
        "alignment": "left",
        "title": words(style.clip(title, 110)),
    }
    if room is None:
        figure.legend(loc="outside upper left", **options)
    else:
        room.set_axis_off()
        room.legend(loc="center", **options)


def _size(music: Statistics) -> str:
    pieces = f"{music.pieces:,} pieces, " if music.pieces > 1 else ""
    return f"{pieces}{music.notes:,} notes"


# --- bars --------------------------------------------------------------------------------------------------------


def _check(top: int) -> None:
    if not 1 <= top <= _MOST:
        raise MusicError(f"expected 1 to {_MOST} bars, got {top}")


def _bars(axes: "Axes", counts: Mapping[str, int], top: int, format_name: Callable, format_count: Callable) -> None:
    """Draw bars to the right, the longest above, each with its number; a last line sums up those that are not drawn.

    Args:
        format_name: writes a name.
        format_count: writes a count.
    """
    from matplotlib.ticker import MaxNLocator

    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown, others = ranked[:top], ranked[top:]
    names = [format_name(name) for name, _ in shown]
    bars = axes.barh(range(len(shown)), [count for _, count in shown], color=COLOURS[0], height=0.7)
    axes.bar_label(bars, [format_count(count) for _, count in shown], padding=3, color=INK, fontsize=8.5)
    if others:
        names.append(f"and {len(others):,} other{'s' * (len(others) > 1)}")
        rest = format_count(sum(count for _, count in others))
        axes.annotate(rest, (0, len(shown)), (3, 0), textcoords="offset points", va="center", color=INK, fontsize=8.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _finish(axes, "x")


def _finish(axes: "Axes", axis: Literal["x", "y"]) -> None:
    """Draw faint lines across the values' axis, behind all else."""
    axes.grid(axis=axis, color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    style.plain(axes)


def _kind(symbol: str) -> str:
    code = ch.code(symbol)
    return _KINDS[0 if code < 128 else 1 if len(ch.classes(code)) < 3 else 2]


def _spell(symbol: str) -> str:
    """Write a chord's symbol after the names of its pitch classes; one class alone means octaves."""
    if ch.code(symbol) < 128:
        return symbol
    names = [nt.name(60 + int(number))[:-1] for number in symbol.split(".")]
    return f"{' '.join(names) if len(names) > 1 else f'{names[0]} in octaves'}  ({symbol})"
