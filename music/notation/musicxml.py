"""Notes → a piano score as MusicXML. Knows nothing of models; music21 is imported when a score is written.

`beats` finds the positions of the notes, `spelling` their names, `hands` the hand that plays them, and `voices` their
chords. Here they become bars with ties, rests, tuplets, beams and accidentals.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from music import midi
from music import notes as nt
from music.errors import EncodingError, MissingDependency
from music.midi import Grid
from music.midi.musicxml_reading import LIBRARY
from music.notation import beats, hands, shortest_path, spelling, voices
from music.notation.beats import QUARTER, Bar, Rhythm
from music.notation.voices import DOWN, ONLY, UP, Chord, Tuplet
from music.notes import DRUMS, Notes

_NAMES = ("whole", "half", "quarter", "eighth", "16th", "32nd", "64th")
_TYPES = {4 * QUARTER // 2**k: name for k, name in enumerate(_NAMES)}
_WRITTEN = {ticks: (name, 0) for ticks, name in _TYPES.items()} | {
    ticks * 3 // 2: (name, 1) for ticks, name in _TYPES.items()
}
_BEAMS = {"eighth": 1, "16th": 2, "32nd": 3, "64th": 4}


class _Piece(NamedTuple):
    """A part of a chord, or of a rest, that one sign can show."""

    start: int  # ticks, from the beginning of its bar
    ticks: int
    tuplet: Tuplet | None


def musicxml(notes: Notes, grid: Grid | None = None, title: str = "", *, exact: bool = False) -> bytes:
    """Write notes as a piano score.

    Args:
        notes: at least one that is no drum.
        grid: the bars and the hands of the notes' file (`midi.grid`); the bars are used if the notes lie on them.
        title: printed above the first line.
        exact: use the bars in any case, as for notes that continue such a file.

    Returns:
        MusicXML 4.0, UTF-8; the same bytes for the same notes.

    Raises:
        EncodingError: there is nothing to write, or too much.
        MissingDependency: music21 is not installed.
    """
    notes = notes[notes["program"] != DRUMS]
    if not len(notes):
        raise EncodingError("no notes to write: expected at least one that is not for drums")
    check()
    right = hands.of_file(notes, grid.hands) if grid and grid.hands else hands.right_hand(notes)
    rhythm = (beats.on_grid(notes, grid, exact=exact) if grid else None) or beats.estimate(notes, right)
    with LIBRARY:
        return _export(_score(notes, rhythm, np.where(right, 0, 1), title))


def key(notes: Notes) -> tuple[int, bool]:
    """Estimate the key: sharps or minus flats, and whether it is minor. A note counts for two seconds at most."""
    return spelling.key(notes["pitch"], np.minimum(notes["end"] - notes["start"], 2.0))


def check() -> None:
    """Raise MissingDependency if music21 is not installed."""
    try:
        import music21
    except ModuleNotFoundError as error:
        raise MissingDependency(f"a score needs {error.name}: `pip install '.[score]'` brings it") from error
    assert music21


def _export(score: Any) -> bytes:
    from xml.etree.ElementTree import tostring

    from music21.musicxml.m21ToXml import ScoreExporter

    root = ScoreExporter(score, makeNotation=False).parse()
    text = tostring(root, encoding="unicode")
    text = re.sub(r"<encoding-date>.*?</encoding-date>|<!--.*?-->", "", text)  # the same bytes tomorrow
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + text).encode()


def _score(notes: Notes, rhythm: Rhythm, staff: np.ndarray, title: str) -> Any:
    from music21 import bar as bar_line
    from music21 import layout, metadata, stream

    rhythm, tuplets = voices.settle(rhythm, staff)
    keys = rhythm.keys or [(0, key(notes)[0])]
    order = np.lexsort((notes["pitch"], rhythm.onset))
    steps, alters = np.empty((2, len(notes)), "i8")
    for some in np.split(order, np.searchsorted(rhythm.onset[order], [at for at, _ in keys])):  # by key
        if len(some):
            fifths = [fifths for at, fifths in keys if at <= max(rhythm.onset[some[0]], keys[0][0])][-1]
            steps[some], alters[some] = spelling.spell(notes["pitch"][some], fifths)
    octaves = spelling.octave(notes["pitch"], alters)
    names = list(zip(steps.tolist(), alters.tolist(), octaves.tolist(), strict=True))

    parts = []
    for s in range(2):
        of = np.flatnonzero(staff == s)
        chords = voices.arrange(rhythm.onset[of], rhythm.end[of], notes["pitch"][of], rhythm.exact) if len(of) else []
        chords = [chord._replace(notes=tuple(int(of[k]) for k in chord.notes)) for chord in chords]
        part = stream.PartStaff(id=f"staff{s + 1}")
        part.coreInsert(0, _player(s, int(np.bincount(notes["program"]).argmax())))
        clefs = _clefs(chords, notes["pitch"], rhythm.bars, s)
        for k, (bar, inside) in enumerate(zip(rhythm.bars, _by_bar(chords, rhythm.bars), strict=True)):
            part.coreAppend(
                _measure(k, bar, inside, names, tuplets[s], _marks(k, s, rhythm, keys, clefs), _key_at(keys, bar))
            )
        part.coreElementsChanged()
        part.getElementsByClass(stream.Measure)[-1].rightBarline = bar_line.Barline("final")
        parts.append(part)
    score = stream.Score([*parts, layout.StaffGroup(parts, symbol="brace", barTogether=True)])
    score.metadata = metadata.Metadata(title=title or " ", composer=" ")
    return score


def _player(staff: int, program: int) -> Any:
    """Make the instrument that a program plays the notes with. A piano's name is not printed: the brace says it."""
    from music21 import instrument

    player = instrument.instrumentFromMidiProgram(program)
    player.partId, player.instrumentId = f"P{staff + 1}", f"I{staff + 1}"  # music21's own are random
    player.instrumentName = midi.instrument_name(program)
    player.partName = player.instrumentName if program else " "
    player.instrumentAbbreviation = player.partAbbreviation = None
    return player


def _marks(k: int, staff: int, rhythm: Rhythm, keys, clefs) -> list[tuple[int, Any]]:
    """List the signs of a bar that are no notes, as (ticks from its beginning, sign): clef, key and time where they are
    new; above the upper staff each change of tempo, and words where bars are left out."""
    from music21 import clef, expressions, key, meter

    bar = rhythm.bars[k]
    before = rhythm.bars[k - 1] if k else None
    marks: list[tuple[int, Any]] = []
    if not k or clefs[k] != clefs[k - 1]:
        marks.append((0, clef.TrebleClef() if clefs[k] == "G" else clef.BassClef()))
    if _key_at(keys, bar) != (_key_at(keys, before) if before else None):
        marks.append((0, key.KeySignature(_key_at(keys, bar))))
    if before is None or before[2:] != bar[2:]:
        marks.append((0, meter.TimeSignature(f"{bar.numerator}/{bar.denominator}")))
    if staff:
        return marks
    for j in _inside(rhythm.tempos, bar):
        at, pace = rhythm.tempos[j]
        until = rhythm.tempos[j + 1][0] if j + 1 < len(rhythm.tempos) else None
        lasts = until is None or until - at >= bar.length
        marks.append((at - bar.start, _tempo(pace, bar, shown=lasts or j == 0)))
    for j in _inside(rhythm.omitted, bar):
        at, seconds = rhythm.omitted[j]
        words = expressions.TextExpression(f"{nt.time_text(seconds)} left out")
        words.placement = "above"
        marks.append((at - bar.start, words))
    return marks


def _inside(rows: list[tuple[int, float]], bar: Bar) -> range:
    """Find which of some rows, sorted by their ticks, are in a bar."""
    return range(*(bisect_left(rows, (tick,)) for tick in (bar.start, bar.start + bar.length)))


def _tempo(pace: float, bar: Bar, shown: bool) -> Any:
    """Make the sign of a tempo in quarters a minute; one that is not shown is only for players."""
    from music21 import duration, tempo

    if not shown:
        return tempo.MetronomeMark(numberSounding=pace)
    beat = beats.beat_of(bar)
    number = round(pace * QUARTER / beat, 2)
    unit = duration.Duration(beat / QUARTER)
    return tempo.MetronomeMark(number=int(number) if number == int(number) else number, referent=unit)


def _key_at(keys: list[tuple[int, int]], bar: Bar) -> int:
    return [fifths for at, fifths in keys if at <= bar.start or at == keys[0][0]][-1]


def _clefs(chords: list[Chord], pitch: np.ndarray, bars: list[Bar], staff: int) -> list[str]:
    """Choose G or F for each bar: the staff's own clef, unless nearly all notes of some bars need ledger lines."""
    starts = np.array([bar.start for bar in bars])
    other = np.zeros(len(bars))  # semitones beyond the staff's own range, and towards it
    for chord in chords:
        k = int(np.searchsorted(starts, chord.start, side="right")) - 1
        for note in chord.notes:
            p = int(pitch[note])
            other[k] += min(p - 62, 14) if staff else min(58 - p, 14)
    costs = np.stack([np.zeros(len(bars)), -other], 1)  # of the staff's own clef and of the other one, [bars, 2]
    change = 30.0
    costs[0, 1] += change
    _, states, _ = shortest_path.cheapest(costs, np.array([[0.0, change], [change, 0.0]]))
    names = ("F", "G") if staff else ("G", "F")
    return [names[state] for state in states]


def _by_bar(chords: list[Chord], bars: list[Bar]) -> list[list[Chord]]:
    """List the chords that sound in each bar."""
    starts = np.array([bar.start for bar in bars])
    inside: list[list[Chord]] = [[] for _ in bars]
    for chord in chords:
        first = int(np.searchsorted(starts, chord.start, side="right")) - 1
        last = int(np.searchsorted(starts, chord.end - 1, side="right")) - 1
        for k in range(first, last + 1):
            inside[k].append(chord)
    return inside


def _measure(k: int, bar: Bar, chords: list[Chord], names, tuplets: dict[int, Tuplet], marks: list, fifths: int) -> Any:
    from music21 import stream
    from music21.stream.enums import ShowNumber

    upbeat = k == 0 and bar.length < 4 * QUARTER * bar.numerator // bar.denominator
    measure = stream.Measure(number=k + (0 if upbeat else 1))
    if upbeat:
        measure.showNumber = ShowNumber.NEVER
        measure.paddingLeft = Fraction(4 * QUARTER * bar.numerator // bar.denominator - bar.length, QUARTER)
    for at, mark in marks:
        measure.coreInsert(Fraction(at, QUARTER), mark)
    both = _two_voices(chords)
    signs: list[tuple[int, Any]] = []
    for voice in both:
        elements = _voice(bar, both, voice, names, tuplets)
        signs += elements
        into = measure if len(both) == 1 else stream.Voice(id=str(voice))
        for at, element in elements:
            into.coreInsert(Fraction(at, QUARTER), element)
        if into is not measure:
            into.coreElementsChanged()
            measure.coreInsert(0, into)
    measure.coreElementsChanged()
    _show_accidentals(signs, fifths)
    return measure


def _two_voices(chords: list[Chord]) -> dict[int, list[Chord]]:
    """Group the chords of a bar by voice: all in one where none overlap."""
    ordered = sorted(chords, key=lambda chord: chord.start)
    if all(a.end <= b.start for a, b in pairwise(ordered)):
        return {ONLY: ordered}
    both: dict[int, list[Chord]] = {UP: [], DOWN: []}
    moving = next((chord.voice for chord in ordered if chord.voice), UP)
    for chord in ordered:
        if chord.voice:
            both[chord.voice].append(chord)
            moving = chord.voice
        else:
            both[moving].append(chord)
    return both


def _voice(
    bar: Bar, both: dict[int, list[Chord]], voice: int, names, tuplets: dict[int, Tuplet]
) -> list[tuple[int, Any]]:
    """Make the signs of one voice in one bar, as (ticks from its beginning, sign), without gaps and overlaps."""
    beat = beats.beat_of(bar)
    begins = range(bar.start, bar.start + bar.length, beat)
    inside = {at - bar.start: tuplets[at] for at in begins if at in tuplets}
    signs: list[tuple[int, Any]] = []
    pieces: list[_Piece] = []
    at = 0
    for k, chord in enumerate(both[voice]):
        start, end = max(chord.start - bar.start, 0), min(chord.end - bar.start, bar.length)
        if k + 1 < len(both[voice]):
            end = min(end, both[voice][k + 1].start - bar.start)
        if start > at:
            _rest(at, start, bar, both, voice, inside, signs, pieces)
        parts = list(_split(start, end, bar.length, beat, inside))
        for j, piece in enumerate(parts):
            before = j > 0 or chord.start < bar.start
            behind = j < len(parts) - 1 or chord.end > bar.start + bar.length
            signs.append((piece.start, _sign(piece, [names[note] for note in chord.notes], before, behind, voice)))
        pieces += parts
        at = end
    if at < bar.length:
        _rest(at, bar.length, bar, both, voice, inside, signs, pieces)
    _bracket(signs, pieces, beat)
    _beam(signs, pieces, beat)
    return signs


def _rest(start: int, end: int, bar: Bar, both, voice: int, tuplets: dict[int, Tuplet], signs, pieces) -> None:
    """Append rests. Of two voices, those of the lower one are hidden, and the upper one's where the lower one plays."""
    from music21 import note

    if start == 0 and end == bar.length:
        bar_rest = note.Rest(quarterLength=Fraction(end, QUARTER))
        bar_rest.fullMeasure = True
        bar_rest.style.hideObjectOnPrint = voice == DOWN
        pieces.append(_Piece(0, end, None))
        signs.append((0, bar_rest))
        return
    others = [chord for v, other in both.items() if v != voice for chord in other]
    edges = {chord.start - bar.start for chord in others} | {chord.end - bar.start for chord in others}
    cuts = [start, *sorted(edge for edge in edges if start < edge < end and voice == UP), end]
    for low, high in pairwise(cuts):
        other_plays = any(chord.start - bar.start < high and chord.end - bar.start > low for chord in others)
        for piece in _split(low, high, bar.length, beats.beat_of(bar), tuplets, dots=bar.denominator == 8):
            rest = note.Rest(duration=_duration(piece))
            rest.style.hideObjectOnPrint = voice == DOWN or other_plays
            signs.append((piece.start, rest))
            pieces.append(piece)


def _split(
    start: int, end: int, length: int, beat: int, tuplets: dict[int, Tuplet], dots: bool = True
) -> Iterator[_Piece]:
    """Cut [start, end) of a bar into parts that single signs can show, so that the beats stay visible."""
    at = start
    while at < end:
        begin = at // beat * beat
        tuplet = tuplets.get(begin)
        if tuplet and (at > begin or end < begin + beat):
            ticks = min(end, begin + beat) - at
            written = (t * tuplet.normal // tuplet.actual for t in sorted(_WRITTEN if dots else _TYPES, reverse=True))
            ticks = next((t for t in written if t <= ticks), ticks)
            yield _Piece(at, ticks, tuplet)
        else:
            limit = min([end, *(t for t in tuplets if at < t < end < t + beat)])
            ticks = _notatable(at, limit, length, beat, dots)
            yield _Piece(at, ticks, None)
        at += ticks


def _notatable(at: int, limit: int, length: int, beat: int, dots: bool) -> int:
    total = limit - at
    fitting = [ticks for ticks in sorted(_WRITTEN if dots else _TYPES, reverse=True) if ticks <= total]
    if not fitting:
        return total
    into = at % beat
    if into == 0:
        return next((t for t in fitting if t == total or t % beat == 0), fitting[0])
    half = beat // 2 if beat == QUARTER else beat // 3
    if total > beat - into:
        crosses = length == 4 * QUARTER and at < length // 2 < limit
        if fitting[0] == total and total <= beat and into % half == 0 and not crosses:
            return total  # a syncopation that everybody reads
        return _notatable(at, at + beat - into, length, beat, dots)
    return next((t for t in fitting if t == total or (into + t) % half == 0), fitting[0])


def _sign(piece: _Piece, written: list[tuple[int, int, int]], before: bool, behind: bool, voice: int) -> Any:
    from music21 import chord, note, tie

    notes = []
    for name in written:
        single = note.Note(_pitch(*name))
        if before or behind:
            single.tie = tie.Tie("continue" if before and behind else "stop" if before else "start")
        notes.append(single)
    sign = notes[0] if len(notes) == 1 else chord.Chord(notes)
    sign.duration = _duration(piece)
    if voice != ONLY:
        sign.stemDirection = "up" if voice == UP else "down"
    return sign


def _pitch(step: int, alter: int, octave: int) -> Any:
    from music21 import pitch

    named = pitch.Pitch(spelling.STEPS[step])
    named.octave = octave
    named.accidental = pitch.Accidental(alter)
    named.accidental.displayStatus = False
    return named


def _duration(piece: _Piece) -> Any:
    from music21 import duration

    actual, normal, unit = piece.tuplet or (1, 1, "")
    written = _WRITTEN.get(piece.ticks * actual // normal)
    if written is None:
        return duration.Duration(Fraction(piece.ticks, QUARTER))
    value = duration.Duration(type=written[0], dots=written[1])
    if piece.tuplet:
        value.appendTuplet(duration.Tuplet(actual, normal, unit))
    return value


def _bracket(signs: list[tuple[int, Any]], pieces: list[_Piece], beat: int) -> None:
    """Mark the tuplets of each beat as one group."""
    for k, (piece, (_, sign)) in enumerate(zip(pieces, signs, strict=True)):
        if not (piece.tuplet and sign.duration.tuplets):  # music21 writes some odd lengths without a tuplet
            continue
        same = [other.tuplet and other.start // beat == piece.start // beat for other in pieces]
        first = k == 0 or not same[k - 1]
        last = k == len(pieces) - 1 or not same[k + 1]
        sign.duration.tuplets[0].type = (
            "startStop" if first and last else "start" if first else "stop" if last else None
        )
        sign.duration.tuplets[0].bracket = False


def _beam(signs: list[tuple[int, Any]], pieces: list[_Piece], beat: int) -> None:
    """Beam the short notes of each beat; a rest ends a beam."""
    group: list[Any] = []
    of = -1  # the beat that the group is in
    for piece, (_, sign) in zip(pieces, signs, strict=True):
        short = not sign.isRest and sign.duration.type in _BEAMS
        if not short or piece.start // beat != of:
            _join(group)
            group, of = [], piece.start // beat
        if short:
            group.append(sign)
    _join(group)


def _join(signs: list[Any]) -> None:
    if len(signs) < 2:
        return
    levels = [_BEAMS[sign.duration.type] for sign in signs]
    for k, sign in enumerate(signs):
        for level in range(1, levels[k] + 1):
            before = k > 0 and levels[k - 1] >= level
            behind = k + 1 < len(signs) and levels[k + 1] >= level
            if before or behind:
                sign.beams.append("continue" if before and behind else "stop" if before else "start")
            else:
                sign.beams.append("partial", "left" if k else "right")


def _show_accidentals(signs: list[tuple[int, Any]], fifths: int) -> None:
    """Show an accidental where the key, or an earlier note of the bar, would make one read another note."""
    valid: dict[tuple[str, int], int] = {}  # the accidental that is valid for (step, octave)
    for _, sign in sorted(signs, key=lambda row: row[0]):
        for single in () if sign.isRest else sign.notes if sign.isChord else (sign,):
            line = single.pitch.step, single.pitch.octave
            alter = int(single.pitch.alter)
            expected = valid.get(line, spelling.altered(single.pitch.step, fifths))
            tied = single.tie is not None and single.tie.type != "start"
            if alter != expected and not tied:
                single.pitch.accidental.displayStatus = True
            if not tied or line in valid:
                valid[line] = alter
