"""Notes: music in memory, one numpy record per note, in seconds. Knows nothing of files, encodings or models.

Every function returns a new array and leaves its argument alone.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from music.errors import EncodingError

NOTE = np.dtype(
    [
        ("start", "f8"),  # seconds
        ("end", "f8"),  # seconds
        ("pitch", "i2"),  # MIDI 0-127, 60 = middle C
        ("velocity", "i2"),  # MIDI 1-127
        ("program", "i2"),  # General MIDI 0-127; DRUMS for the drum channel
    ]
)
FIELDS: tuple[str, ...] = NOTE.names or ()
DRUMS = 128
A0, C8 = 21, 108  # the lowest and the highest key of a piano
Notes: TypeAlias = np.ndarray  # of NOTE, sorted by (start, pitch)

_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def from_tuples(rows: Iterable[tuple]) -> Notes:
    """Make Notes from (start, end, pitch[, velocity[, program]]) tuples; velocity 80 and program 0 if absent."""
    return sort(np.array([(*row, *(80, 0)[len(row) - 3 :]) for row in rows], NOTE))


def from_columns(start, end, pitch, velocity, program=0) -> Notes:
    """Make Notes from columns of one length, or single values; they are not sorted."""
    notes = np.empty(len(start), NOTE)
    for name, column in zip(FIELDS, (start, end, pitch, velocity, program), strict=True):
        notes[name] = column
    return notes


def empty() -> Notes:
    """Make Notes of length 0."""
    return np.empty(0, NOTE)


def sort(notes: Notes) -> Notes:
    """Sort by (start, pitch); notes that agree in both keep their order."""
    return notes[np.lexsort((notes["pitch"], notes["start"]))]


def pitched(notes: Notes) -> Notes:
    """Leave out the drums. Raises EncodingError if there are notes and all of them are drums."""
    without_drums = notes[notes["program"] != DRUMS]
    if len(notes) and not len(without_drums):
        raise EncodingError(f"all {len(notes)} notes are drums: expected some that have a pitch")
    return without_drums


def transpose(notes: Notes, semitones: int) -> Notes:
    """Move every pitch by `semitones`; drums stay. The caller must keep pitches within 0-127."""
    moved = notes.copy()
    moved["pitch"] += np.where(notes["program"] == DRUMS, 0, semitones).astype("i2")
    return moved


def stretch(notes: Notes, factor: float) -> Notes:
    """Make the music `factor` times as long."""
    stretched = notes.copy()
    stretched["start"] *= factor
    stretched["end"] *= factor
    return stretched


def with_program(notes: Notes, program: int) -> Notes:
    """Play every note on the instrument of this General MIDI program, 0-127; drums stay drums."""
    changed = notes.copy()
    changed["program"] = np.where(notes["program"] == DRUMS, DRUMS, program)
    return changed


def shift(notes: Notes, seconds: float) -> Notes:
    """Move the music later by `seconds`."""
    moved = notes.copy()
    moved["start"] += seconds
    moved["end"] += seconds
    return moved


def between(notes: Notes, begin: float, end: float) -> Notes:
    """Keep the notes that begin in [begin, end) seconds, cut at the end, on the same clock."""
    inside = notes[(notes["start"] >= begin) & (notes["start"] < end)]
    inside["end"] = np.minimum(inside["end"], end)
    return inside


def excerpt(notes: Notes, start: float = 0.0, seconds: float = float("inf")) -> Notes:
    """Keep the notes that begin in [start, start + seconds), cut at its end, on a clock that begins at `start`."""
    inside = (notes["start"] >= start) & (notes["start"] < start + seconds)
    cut = shift(notes[inside], -start)
    cut["end"] = np.minimum(cut["end"], seconds)
    return cut


def steps(notes: Notes) -> np.ndarray:
    """Compute the seconds from the onset before to each onset, float64 [n]; the first is 0."""
    return np.diff(notes["start"], prepend=notes["start"][:1])


def first_onset(notes: Notes) -> float:
    """Find the second at which the first note begins; 0 without notes."""
    return float(notes["start"].min()) if len(notes) else 0.0


def length(notes: Notes) -> float:
    """Find the second at which the last note ends; 0 without notes."""
    return float(notes["end"].max()) if len(notes) else 0.0


def beyond_piano(notes: Notes) -> int:
    """Count the notes, drums apart, that no key of a piano plays."""
    pitch = notes["pitch"][notes["program"] != DRUMS]
    return int(np.sum((pitch < A0) | (pitch > C8)))


def name(pitch: int) -> str:
    """Name a MIDI pitch: 60 is C4, 61 C#4."""
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


def time_text(seconds: float) -> str:
    """Write a length of time as people do: 45 s, 2 min 5 s, 2 h 59 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
