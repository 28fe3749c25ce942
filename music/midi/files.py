"""MIDI or MusicXML bytes → Notes, tempos, bars. Knows nothing of encodings, models or where bytes come from.

We read with our own code (`parser` reads bytes, `note_pairing` pairs keys), some 50 times as fast as pretty_midi, which
with symusic is the oracle in the tests. A damaged file is read as far as it makes sense. Tempo changes count in
whichever track of a song they stand, on one float64 tempo map. MusicXML becomes MIDI first, so all that reads a file
here reads both.
"""

import contextlib
import io
from dataclasses import dataclass, replace

import numpy as np

from music import notes as nt
from music.errors import MidiError, SettingError
from music.midi import file_kinds, musicxml_reading, parser
from music.midi.grids import FAR, Grid
from music.midi.note_pairing import PEDAL_DOWN, PairedNotes, pair_notes
from music.midi.parser import File
from music.notes import DRUMS, Notes

with contextlib.redirect_stdout(
    io.StringIO()
):  # pyfluidsynth, which it tries to import, prints a line where $CI is set
    import pretty_midi

_LONGEST = 24 * 3600.0  # seconds; a file that claims more than a day is damaged
_LONGEST_NAMES = 512  # bytes of the names of one program's tracks
DEFAULT_TEMPO = 500_000  # microseconds per quarter where a file sets none


@dataclass(frozen=True)
class Summary:
    """What a person wants to know of a file first. Times in seconds, tempos in quarters per minute."""

    notes: Notes  # the pedal folded into the ends
    seconds: float
    tempos: list[tuple[float, float]]  # (from second, quarters per minute), from second 0 on; one a time
    instruments: list[tuple[str, int]]  # (name, its notes)
    pedal_presses: int
    ticks_per_quarter: int
    warnings: list[str]  # what was damaged, and where; empty for an undamaged file


def read(data: bytes | File, *, pedal: bool = True, drums: bool = True) -> Notes:
    """Read a Standard MIDI File, a damaged one as far as possible, or MusicXML.

    `read_with_warnings` says what was damaged. A score is read with its tempos and its repeats; `musicxml_reading` says
    what of it does not sound.

    Args:
        data: the whole file, or its events as `parse` returns them.
        pedal: let notes sound until the sustain pedal (CC64 >= 64) lifts or their pitch is struck again, even if that
            is before their own release.
        drums: read channel 10 as drums, unless the file is MPE, where it is a channel like any other. False: never.

    Returns:
        Notes sorted by (start, pitch), in seconds; notes of no length are dropped.

    Raises:
        MidiError: the bytes are neither, do not say how long a tick is, or all their notes are beyond a day; or a score
            is damaged or beyond its limits.
        MissingDependency: they are MusicXML, and music21 is not installed.
    """
    return read_with_warnings(data, pedal=pedal, drums=drums)[0]


def read_with_warnings(data: bytes | File, *, pedal: bool = True, drums: bool = True) -> tuple[Notes, list[str]]:
    """Read a file as `read` does, and say what was repaired or left out: a line for each kind of damage."""
    return _notes_and_warnings(parse(data), pedal, drums)


def parse(data: bytes | File) -> File:
    """Read the events of MIDI bytes, or of the MIDI file that MusicXML is turned into; events stay as they are."""
    if isinstance(data, File):
        return data
    if not file_kinds.is_musicxml(data):
        return parser.read(data)
    converted, warnings = musicxml_reading.to_midi(data)
    file = parser.read(converted)
    return replace(file, warnings=[*warnings, *file.warnings])


def no_notes(warnings: list[str]) -> MidiError:
    """Make the error of a file without notes; the warnings of its reading say why it has none."""
    return MidiError("; ".join(["no notes", *warnings]))


def inspect(data: bytes | File, *, drums: bool = True) -> Summary:
    """Read a file and summarise it; of several songs the first one's tempos. Raises MidiError as `read` does."""
    file = parse(data)
    notes, warnings = _notes_and_warnings(file, pedal=True, drums=drums)
    tempos = {0: DEFAULT_TEMPO} | {tick: tempo for song, tick, tempo in _tempos(file) if song == 0}
    seconds = _tempo_map(file)(np.zeros(len(tempos), "i8"), np.array(list(tempos)))
    return Summary(
        notes=notes,
        seconds=nt.length(notes),
        tempos=[(second, 6e7 / tempo) for second, tempo in zip(seconds.tolist(), tempos.values(), strict=True)],
        instruments=[(instrument_name(p), int(np.sum(notes["program"] == p))) for p in np.unique(notes["program"])],
        pedal_presses=_presses(file),
        ticks_per_quarter=file.ticks_per_quarter,
        warnings=warnings,
    )


def _presses(file: File) -> int:
    """Count how often a sustain pedal goes down."""
    pedal = np.flatnonzero((file.status >> 4 == parser.CONTROL) & (file.first == parser.SUSTAIN))
    channel = (file.song << 4 | file.status & 0xF)[pedal]
    order = np.argsort(channel, kind="stable")
    channel, down = channel[order], file.second[pedal][order] >= PEDAL_DOWN
    return int(np.sum(down & ~(np.append(False, down[:-1]) & (channel == np.append(-1, channel[:-1])))[: len(down)]))


def grid(data: bytes | File) -> Grid:
    """Read a file's tempo map, time signatures (else 4/4), keys, hands and names; of several songs those of the first.

    Raises:
        MidiError: as `read` does.
    """
    file = parse(data)
    quarter = file.ticks_per_quarter
    ticks = np.unique([0, *(tick for song, tick, _ in _tempos(file) if song == 0), file.end + quarter])
    marks = [mark[1:] for mark in file.marks if mark[0] == 0]
    times = {tick: (value[0], 2 ** value[1]) for tick, kind, value in marks if kind == parser.TIME}
    keys = {tick: ((value[0] + 64) % 256 - 64, value[1] == 1) for tick, kind, value in marks if kind == parser.KEY}
    seconds, paired = _tempo_map(file)(np.zeros(len(ticks), "i8"), ticks), pair_notes(file, pedal=False, drums=True)
    pace = 1 / quarter / max((seconds[-1] - seconds[-2]) / (ticks[-1] - ticks[-2]), 1e-12)  # quarters a second, at last
    return Grid(
        seconds=np.append(seconds[:-1], seconds[-2] + FAR),
        quarters=np.append(ticks[:-1] / quarter, ticks[-2] / quarter + FAR * pace),
        times=[(tick / quarter, *signature) for tick, signature in ({0: (4, 4)} | times).items()],
        keys=[(tick / quarter, *key) for tick, key in keys.items()],
        hands=_two_tracks(file, paired),
        ticks_per_quarter=quarter,
        names=_names(file, paired),
    )


def _names(file: File, paired: PairedNotes) -> list[tuple[int | None, int, bytes]]:
    """List the names of each program's tracks, joined where it has several.

    The first track of no program, or of several, names the song.
    """
    program = np.where(paired.drum, DRUMS, paired.program)
    joined: dict[tuple[int | None, int], list[bytes]] = {}
    own = {}  # track: the only program of its notes
    for track, number in np.unique(np.stack([paired.track >> 4, program]), axis=1).T.tolist():
        own[track] = None if track in own else number
    for track, kind, text in file.names:
        texts = joined.setdefault((own.get(track), kind), [])
        if text not in texts and (own.get(track) is not None or not texts):
            texts.append(text)
    return [(number, kind, b", ".join(texts)[:_LONGEST_NAMES]) for (number, kind), texts in joined.items()]


def _two_tracks(file: File, paired: PairedNotes) -> tuple[Notes, Notes] | None:
    """Read the notes of the only two tracks, or channels of one track, that have any, if they play one instrument."""
    seconds = _tempo_map(file)
    tracks = np.unique(paired.track)
    if len(tracks) != 2 or paired.drum.any() or len(np.unique(paired.program)) > 1:
        return None
    start, end = seconds(paired.song, paired.begin), seconds(paired.song, paired.end)
    columns = (start, end, paired.pitch, paired.velocity, paired.program)
    first, second = (nt.sort(nt.from_columns(*(c[paired.track == t] for c in columns))) for t in tracks)
    return first, second


def instrument_name(program: int) -> str:
    """Name a General MIDI program, 0-127; DRUMS is "Drums"."""
    return "Drums" if program == DRUMS else pretty_midi.program_to_instrument_name(int(program))


def find_program(text: str) -> int:
    """Find a General MIDI program, 0-127, by its number, its instrument's name, or a part that no other name has.

    Raises:
        SettingError: there is no such program, or there are several; the message names them.
    """
    if text.isdecimal():
        if len(text) > 3 or int(text) > 127:
            raise SettingError(f"program: expected 0 to 127, got {text[:50]}")
        return int(text)
    names = [instrument_name(program).lower() for program in range(128)]
    wanted = text.strip().lower()
    matches = [program for program, name in enumerate(names) if wanted in name]
    matches = [program for program in matches if names[program] == wanted] or matches
    if not wanted or not matches:
        raise SettingError(f"program: no instrument is called {text[:50]!r}, expected 0 to 127 or a General MIDI name")
    if len(matches) > 1:
        several = ", ".join(f"{instrument_name(program)} ({program})" for program in matches)
        raise SettingError(f"program: {text[:50]!r} may be {several}")
    return matches[0]


def _notes_and_warnings(file: File, pedal: bool, drums: bool) -> tuple[Notes, list[str]]:
    """Turn a file's events into Notes, and list what was damaged."""
    paired, seconds, warnings = pair_notes(file, pedal, drums), _tempo_map(file), list(file.warnings)
    start, end = seconds(paired.song, paired.begin), seconds(paired.song, paired.end)
    if paired.unended:
        several = f"{paired.unended:,} notes are never released; they are left out"
        warnings.append("1 note is never released; it is left out" if paired.unended == 1 else several)
    late = end > _LONGEST
    if late.any():
        longest = f"a note ends after {end.max():.3g} s, expected at most {_LONGEST:.0f} s"
        if late.all():
            raise MidiError(f"damaged MIDI: {longest}")
        warnings.append(f"notes: {longest}; {late.sum():,} are left out")
    chosen = np.flatnonzero(~late & (end > start))
    chosen = chosen[np.lexsort((paired.pitch[chosen], start[chosen]))]
    program = np.where(paired.drum, DRUMS, paired.program)
    columns = (start, end, paired.pitch, paired.velocity, program)
    return nt.from_columns(*(column[chosen] for column in columns)), warnings


def _tempos(file: File) -> list[tuple[int, int, int]]:
    """List the changes of tempo: (song, tick, microseconds a quarter from there on)."""
    if file.tempo is not None:
        return [(song, 0, file.tempo) for song in range(file.songs)]
    return [(song, tick, int.from_bytes(value)) for song, tick, kind, value in file.marks if kind == parser.TEMPO]


def _tempo_map(file: File):
    """Make the function that turns arrays of songs and ticks into seconds."""
    changes = np.array([*((song, 0, DEFAULT_TEMPO) for song in range(file.songs)), *_tempos(file)])
    song, tick, tempo = changes[np.argsort(changes[:, 0] << 32 | changes[:, 1], kind="stable")].T
    seconds_per_tick = tempo / 1e6 / file.ticks_per_quarter
    if not tick.any() and file.songs == 1:  # the last one counts
        return lambda _, at: at * seconds_per_tick[-1]
    knots = song << 32 | tick
    starts = np.append(0.0, np.cumsum(np.where(np.diff(song), 0, np.diff(tick)) * seconds_per_tick[:-1]))
    starts -= starts[np.searchsorted(song, song)]  # each song begins at 0

    def seconds(of: np.ndarray, at: np.ndarray) -> np.ndarray:
        segment = np.searchsorted(knots, of << 32 | at, side="right") - 1
        return starts[segment] + (at - tick[segment]) * seconds_per_tick[segment]

    return seconds
