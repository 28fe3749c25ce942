"""Notes, or a dataset's `stats.json` → Statistics: histograms of notes, chord symbols, composers.

They are for pictures, never for training. Preprocessing sums the counts of a corpus and writes them as `stats.json`,
which `read` reads; `of` counts a few pieces. Knows nothing of Beam, nor of how counts are drawn.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from music import notes as nt
from music import storage
from music.encodings import chords
from music.errors import RecordError
from music.notes import DRUMS, Notes
from music.storage import checksums

# Edges of bins: whole MIDI numbers; whole milliseconds, ten bins a decade up to 100 s; notes, two bins an octave.
_MILLISECONDS = [0, *sorted({round(10 ** (k / 10)) for k in range(51)})]
_OCTAVES = sorted({round(2 ** (k / 2)) for k in range(36)})
_BIN_OF_MILLISECOND = np.searchsorted(_MILLISECONDS, np.arange(_MILLISECONDS[-1]), side="right") - 1
EDGES: dict[str, list] = {
    "pitch": list(range(129)),
    "velocity": list(range(129)),
    "step": [edge / 1000 for edge in _MILLISECONDS],
    "duration": [edge / 1000 for edge in _MILLISECONDS],
    "notes_per_piece": _OCTAVES,
}


class Histogram(NamedTuple):
    """How many values lie in each bin [edges[k], edges[k + 1]); the last bin has all larger values, too."""

    edges: np.ndarray  # float64 [bins + 1], rising
    counts: np.ndarray  # int64 [bins]

    def median(self) -> float:
        """Compute the median by linear interpolation inside its bin; NaN without values."""
        below = np.concatenate([[0], np.cumsum(self.counts)])
        return float(np.interp(below[-1] / 2, below, self.edges)) if below[-1] else float("nan")


@dataclass(frozen=True)
class Statistics:
    """The counts of some music.

    Args:
        histograms: by the names in EDGES.
        composers: pieces of each; empty where they are unknown.
        chords: groups of notes that begin together, by symbol; None where they were not counted.
    """

    pieces: int
    notes: int
    histograms: dict[str, Histogram]
    composers: dict[str, int] = field(default_factory=dict)
    chords: dict[str, int] | None = None


def histograms(notes: Notes) -> dict[str, np.ndarray]:
    """Count one piece: {name: int64 [bins of EDGES[name]]}, in the order of EDGES."""
    sizes = [len(notes)] if len(notes) else []  # a piece without notes is in no bin
    bins = {
        "pitch": notes["pitch"],
        "velocity": notes["velocity"],
        "step": _time_bins(nt.steps(notes)[1:]),  # from each onset to the next; the first note has none before it
        "duration": _time_bins(notes["end"] - notes["start"]),
        "notes_per_piece": np.searchsorted(_OCTAVES, sizes, side="right") - 1,
    }
    return {
        name: np.bincount(np.minimum(bins[name], len(edges) - 2), minlength=len(edges) - 1)
        for name, edges in EDGES.items()
    }


def _time_bins(seconds: np.ndarray) -> np.ndarray:
    """Find the bins of times; longer ones are in the last. By a table: searching takes longer than reading MIDI."""
    microseconds = np.rint(seconds * 1e6).astype("i8")  # 0.29 s must not become 289 ms
    return _BIN_OF_MILLISECOND[np.minimum(microseconds // 1000, len(_BIN_OF_MILLISECOND) - 1)]


def chord_codes(notes: Notes) -> np.ndarray:
    """Count one piece's groups of notes that begin together, without drums: int64 [chords.CODES]."""
    drums = notes["program"] == DRUMS
    pitched = notes[~drums] if drums.any() else notes  # a mask takes longer than the count
    return np.bincount(chords.codes(pitched, chords.group(pitched)), minlength=chords.CODES)


def by_symbol(counts: dict[int, int]) -> dict[str, int]:
    """Turn counts of chord codes into counts of symbols, the most frequent first, equally frequent ones by name."""
    symbols = [(chords.symbol(code), count) for code, count in counts.items() if count]
    return dict(sorted(symbols, key=lambda pair: (-pair[1], pair[0])))


def of(pieces: Iterable[Notes]) -> Statistics:
    """Count some pieces."""
    pieces = list(pieces)
    counted = [histograms(notes) for notes in pieces]
    codes = sum((chord_codes(notes) for notes in pieces), np.zeros(chords.CODES, "i8"))
    return Statistics(
        pieces=len(pieces),
        notes=sum(map(len, pieces)),
        histograms={
            name: Histogram(np.array(edges, "f8"), sum((one[name] for one in counted), np.zeros(len(edges) - 1, "i8")))
            for name, edges in EDGES.items()
        },
        chords=by_symbol({code: int(codes[code]) for code in np.flatnonzero(codes).tolist()}),
    )


def read(path: str | os.PathLike) -> Statistics:
    """Read a `stats.json`. An old one, from before chords were counted, has no chords.

    Raises:
        RecordError: it is damaged, or no stats.json.
    """
    try:
        facts = checksums.checked(storage.read(path), f"expected the stats.json of a dataset, and {path}")
        splits = facts["splits"].values()
        return Statistics(
            pieces=sum(int(split["pieces"]) for split in splits),
            notes=sum(int(split["notes"]) for split in splits),
            histograms={name: _histogram(facts[name]) for name in EDGES},
            composers=_counts(facts["composers"]),
            chords=_counts(facts["chords"]) if "chords" in facts else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"  # its repr could hold the whole file
        raise RecordError(f"expected the stats.json of a dataset: {reason}") from error


def _histogram(facts: dict) -> Histogram:
    """Read a histogram from its JSON. Raises ValueError if it is none."""
    edges, counts = np.array(facts["edges"], "f8"), np.array(facts["counts"], "i8")
    if edges.ndim != 1 or edges.shape != (len(counts) + 1,) or not (np.diff(edges) > 0).all() or (counts < 0).any():
        raise ValueError("a histogram whose edges and counts do not fit")
    return Histogram(edges, counts)


def _counts(facts: dict) -> dict[str, int]:
    """Read counts by name from their JSON."""
    return {str(name): int(count) for name, count in facts.items()}
