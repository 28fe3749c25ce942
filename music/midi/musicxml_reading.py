"""MusicXML → the bytes of a MIDI file, as a player would play it. music21 is imported when a score is read.

`musicxml_tree` reads the file within limits, `repeats` finds the order of the measures, and music21 finds what begins
where in a measure: voices, chords, tuplets, staves, transposing instruments. Here that becomes events in ticks. Each
staff has a track, and a channel of its own as long as there are some.

- Grace notes begin before the beat, 1/8 of a quarter each; at the very beginning of a score they begin with it.
- A part's velocities follow its dynamics, pppp to ffff; before any they are 80.
- Pedal marks, hairpins, articulations, ornaments and arpeggios are not played.
"""

import threading
import warnings
from fractions import Fraction
from typing import Any, NamedTuple

from music.errors import MidiError, MissingDependency
from music.midi import musicxml_tree, repeats
from music.midi.musicxml_tree import Part
from music.midi.note_pairing import DRUM_CHANNEL
from music.midi.parser import NOTE_OFF, NOTE_ON, PROGRAM
from music.midi.writing import chunk, key_event, tempo_event, time_event, track

LIBRARY = threading.Lock()  # music21 has state of the whole process; who calls it in a server holds this
MOST_SOUNDING = 200_000  # notes, with all repeats
_QUARTER = 10_080  # ticks
_MOST_TICKS = 25_000 * _QUARTER  # 3 h 28 min at 120 quarters a minute; longer times would not fit a MIDI file
_GRACE = _QUARTER // 8  # ticks
_ROUNDING = 2  # ticks between the end of a tied note and its continuation
_TEMPO = 120.0  # quarters a minute, where a score has none
_VELOCITY = 80
_VELOCITIES = {
    **{"pppp": 8, "ppp": 16, "pp": 33, "p": 49, "mp": 64, "mf": 80, "f": 96, "ff": 112, "fff": 120, "ffff": 127},
    "fp": 49,
}
_CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]
_OFF, _CHANGE, _ON = range(3)  # the order of events at one tick


class _Note(NamedTuple):
    """A written note. Times in ticks from the beginning of its measure."""

    start: int
    ticks: int
    pitch: int
    velocity: int
    staff: int  # from 0, counted over all parts
    ties: bool  # the next note of its pitch goes on with it


class _Measure:
    """What is written in a measure of all parts. Positions are ticks from its beginning."""

    def __init__(self) -> None:
        self.ticks = 0  # how long it is
        self.silent = 0  # the same of parts without notes in it
        self.notes: list[_Note] = []
        self.tempos: list[tuple[int, float]] = []  # (position, quarters a minute)
        self.time: tuple[int, int] | None = None  # numerator and denominator, where they are new
        self.key: tuple[int, bool] | None = None  # sharps or minus flats, and whether it is minor, where it is new


class _Sounding(NamedTuple):
    """A note that sounds. Times in ticks from the beginning of the score."""

    start: int
    end: int
    pitch: int
    velocity: int
    staff: int


def to_midi(data: bytes) -> tuple[bytes, list[str]]:
    """Play a score: a MusicXML file → a MIDI file of format 1, and a line for each kind of thing that was left out.

    Args:
        data: .musicxml or .mxl.

    Raises:
        MidiError: it is no MusicXML, is damaged, or is too large or too long.
        MissingDependency: music21 is not installed.
    """
    check()
    score = musicxml_tree.read(data)
    order = repeats.order(score.columns)
    measures = [_Measure() for _ in score.columns]
    staves: list[int] = []  # the program of each staff; -1: drums
    with LIBRARY, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in score.parts:
            try:
                _read_part(part, measures, staves)
            except MemoryError:
                raise
            except Exception as error:  # music21 lets through whatever its code meets
                raise MidiError(f"damaged MusicXML: {_one_line(error)}") from error
    time = (4, 4)
    for measure in measures:
        time = measure.time or time
        full = 4 * _QUARTER * time[0] // time[1]
        # Programs write the rests of a silent part too long: a whole one in 3/4, or those of two voices in a row.
        measure.ticks = max(measure.ticks, min(measure.silent, full)) or full
    return _write(measures, order, staves), score.warnings


def check() -> None:
    """Raise MissingDependency if music21 is not installed."""
    try:
        import music21
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"reading MusicXML needs {error.name}: `pip install '.[score]'` in a clone of Cadenza brings it"
        ) from error
    assert music21


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__


def _read_part(part: Part, measures: list[_Measure], staves: list[int]) -> None:
    """Read a part with music21, and append what is in it to the measures and its staves to `staves`.

    We call music21's readers of a part's head and of a measure. Its reader of a whole part takes time that grows with
    the square of the measures, if they are shorter than their time signature.
    """
    from music21.musicxml.xmlToM21 import MeasureParser, PartParser

    reader = PartParser(mxScorePart=part.player)
    program = -1 if part.drums else reader.getDefaultInstrument().midiProgram or 0
    numbers: dict[int, int] = {}  # a staff's number in the part: its number in the score
    velocity = _VELOCITY
    for element, semitones, measure in zip(part.measures, part.semitones, measures, strict=False):
        written = MeasureParser(element, parent=reader)
        written.parse()
        staff_of = {id(each): number for number, some in written.staffReference.items() for each in some}
        elements = []
        for each in written.stream.elements:  # sorted by time
            number = max(staff_of.get(id(each), 1), 1)
            if number not in numbers:
                numbers[number] = len(staves)
                staves.append(program)
            elements.append((Fraction(written.stream.elementOffset(each)), numbers[number], each))
        _read_signatures(written.stream, measure, has_key=not semitones and not part.drums)
        velocity = _read_measure(elements, measure, velocity, semitones)


def _read_signatures(written: Any, measure: _Measure, has_key: bool) -> None:
    """Read the time and the key that are new in a measure; those of the first part that has them count."""
    time, key = written.timeSignature, written.keySignature
    if measure.time is None and time is not None and 0 < time.numerator < 256:
        measure.time = (time.numerator, time.denominator)
    if measure.key is None and has_key and key is not None:
        measure.key = (key.sharps, getattr(key, "mode", None) == "minor")


def _read_measure(elements: list[tuple[Fraction, int, Any]], measure: _Measure, velocity: int, semitones: int) -> int:
    """Read what is in a measure of a part; take the velocity before it, and return the one behind it."""
    from music21 import chord, dynamics, note, tempo

    graces: dict[tuple[Fraction, int], list[tuple[list[Any], int]]] = {}
    lasts, before = 0, len(measure.notes)
    for offset, staff, element in elements:
        position = _ticks(offset)
        if isinstance(element, tempo.MetronomeMark):
            measure.tempos.append((position, float(element.getQuarterBPM() or _TEMPO)))
        elif isinstance(element, dynamics.Dynamic):
            velocity = _VELOCITIES.get(element.value, velocity)
        elif isinstance(element, note.GeneralNote):
            ticks = _ticks(Fraction(element.quarterLength))
            lasts = max(lasts, position + ticks)
            pitched = list(element.notes) if isinstance(element, chord.Chord) else [element]
            pitched = [each for each in pitched if isinstance(each, note.Note)]
            if element.duration.isGrace:
                graces.setdefault((offset, staff), []).append((pitched, velocity))
            else:
                measure.notes += [_note(each, position, ticks, velocity, staff, semitones) for each in pitched]
    for (offset, staff), some in graces.items():
        for k, (pitched, loudness) in enumerate(some):
            begins = _ticks(offset) - (len(some) - k) * _GRACE
            notes = [_note(each, begins, _GRACE, loudness, staff, semitones) for each in pitched]
            measure.notes += [each._replace(ties=False) for each in notes]
    if len(measure.notes) > before:
        measure.ticks = max(measure.ticks, lasts)
    else:
        measure.silent = max(measure.silent, lasts)
    return velocity


def _ticks(quarters: Fraction) -> int:
    return round(quarters * _QUARTER)


def _note(written: Any, start: int, ticks: int, velocity: int, staff: int, semitones: int) -> _Note:
    ties = written.tie is not None and written.tie.type in ("start", "continue")
    return _Note(start, ticks, round(written.pitch.ps) + semitones, velocity, staff, ties)


def _write(measures: list[_Measure], order: list[int], staves: list[int]) -> bytes:
    """Write the measures, in the order in which they are played, as a MIDI file."""
    if (count := sum(len(measures[k].notes) for k in order)) > MOST_SOUNDING:
        raise MidiError(f"too long a score: expected at most {MOST_SOUNDING:,} notes with all repeats, got {count:,}")
    if sum(measures[k].ticks for k in order) > _MOST_TICKS:
        raise MidiError(f"too long a score: expected at most {_MOST_TICKS // _QUARTER:,} quarters with all repeats")
    tracks = [track(_conductor(measures, order))]
    sounding = _played(measures, order)
    shared = sum(program >= 0 for program in staves) > len(_CHANNELS)
    pitched = 0
    for staff, program in enumerate(staves):
        channel = DRUM_CHANNEL if program < 0 else _CHANNELS[pitched % len(_CHANNELS)]
        pitched += program >= 0
        events: list[tuple[int, int, bytes]] = []
        change = bytes((PROGRAM << 4 | channel, max(program, 0)))
        for note in sounding.get(staff, []):
            if shared or not events:
                events.append((note.start, _CHANGE, change))
            events.append((note.start, _ON, bytes((NOTE_ON << 4 | channel, note.pitch, note.velocity))))
            events.append((note.end, _OFF, bytes((NOTE_OFF << 4 | channel, note.pitch, 64))))
        tracks.append(track(events))
    head = b"".join(number.to_bytes(2) for number in (1, len(tracks), _QUARTER))
    return chunk(b"MThd", head) + b"".join(tracks)


def _conductor(measures: list[_Measure], order: list[int]) -> list[tuple[int, int, bytes]]:
    """Make the events of tempo, time and key: in each measure those in force where it is written, if they changed.

    A measure that is shorter or longer than its time, such as an upbeat, is followed by the time again, as a measure
    begins there.
    """
    in_force: list[tuple[float, tuple[int, int], tuple[int, bool] | None]] = []
    tempo: float = _TEMPO
    time: tuple[int, int] = (4, 4)
    key: tuple[int, bool] | None = None
    for measure in measures:
        time, key = measure.time or time, measure.key or key
        in_force.append((tempo, time, key))
        measure.tempos.sort(key=lambda each: each[0])
        tempo = measure.tempos[-1][1] if measure.tempos else tempo
    events: list[tuple[int, int, bytes]] = []
    last_tempo, last_time, last_key, now, full = None, None, None, 0, True
    for k in order:
        tempo, time, key = in_force[k]
        marks = measures[k].tempos
        if not (marks and marks[0][0] <= 0):
            marks = [(0, tempo), *marks]
        for at, pace in marks:
            if pace != last_tempo:
                events.append((max(now + at, 0), 0, tempo_event(round(6e7 / pace))))
                last_tempo = pace
        if time != last_time or not full:
            events.append((now, 0, time_event(*time)))
            last_time = time
        if key is not None and key != last_key:
            events.append((now, 0, key_event(*key)))
            last_key = key
        full = measures[k].ticks * time[1] == 4 * _QUARTER * time[0]
        now += measures[k].ticks
    return events


def _played(measures: list[_Measure], order: list[int]) -> dict[int, list[_Sounding]]:
    """Play the measures: join tied notes, and end a note where its staff strikes its pitch again."""
    sounding: dict[int, list[_Sounding]] = {}
    now = 0
    notes: list[tuple[int, _Note]] = []
    for k in order:
        notes += [(max(now + note.start, 0), note) for note in measures[k].notes]
        now += measures[k].ticks
    notes.sort(key=lambda each: each[0])
    latest: dict[tuple[int, int], tuple[int, bool]] = {}  # (staff, pitch): (place in the staff's list, is tied on)
    for start, note in notes:
        if note.ticks <= 0 or not 0 <= note.pitch < 128:
            continue
        row, place = sounding.setdefault(note.staff, []), (note.staff, note.pitch)
        end = start + note.ticks
        if place in latest:
            at, ties = latest[place]
            before = row[at]
            if ties and abs(before.end - start) <= _ROUNDING:
                row[at] = before._replace(end=max(before.end, end))
                latest[place] = at, note.ties
                continue
            if before.start == start:  # two voices in unison
                row[at] = before._replace(end=max(before.end, end), velocity=max(before.velocity, note.velocity))
                latest[place] = at, note.ties or ties
                continue
            row[at] = before._replace(end=min(before.end, start))
        latest[place] = len(row), note.ties
        row.append(_Sounding(start, end, note.pitch, note.velocity, note.staff))
    return sounding
