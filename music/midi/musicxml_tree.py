"""MusicXML bytes → the elements that say what sounds, within limits. Knows nothing of music21 and of MIDI.

The file is a stranger's. So it is parsed by expat with our own handlers: no entity is declared or fetched, elements
that say nothing of the sound are never stored, and numbers are checked before a library computes with them. Memory and
time grow with the size of the file, never with a number that it states.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement
from xml.parsers import expat

from music.errors import MidiError

MOST_BYTES = 20_000_000  # of a file, packed and unpacked; a page of piano music has 100,000
MOST_ELEMENTS = 2_000_000  # of XML; a note has about ten
MOST_SIGNS = 50_000  # written notes, rests and other signs; a sonata has about 10,000
MOST_MEASURES = 10_000  # written, summed over the parts
MOST_PARTS = 100
MOST_STAVES = 8  # of one part
MOST_QUARTERS = 1_000  # that a note, a rest or a move of the position lasts
_DEPTH = 40  # elements inside one another; MusicXML's own are at most 12
_MEMBERS = 1_000  # files in an .mxl; it has three, and a picture or two
_TEXT = 100  # characters of an element or an attribute that is stored
_CONTAINER = "META-INF/container.xml"
_PATH = "full-path"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of an .mxl; the library unpacks others without any limit
_ZIP_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, KeyError, OSError, ValueError, RuntimeError),
)  # what the library raises for a damaged zip
_TEMPOS = (5.0, 2_000.0)  # quarters a minute

_ROOTS = ("score-partwise", "score-timewise")
_STORED = {  # an element: the elements in it that are stored
    "score-partwise": {"part-list", "part"},
    "score-timewise": {"part-list", "measure"},
    "part-list": {"score-part"},
    "score-part": {"score-instrument", "midi-instrument"},
    "score-instrument": {"instrument-name"},
    "midi-instrument": {"midi-program", "midi-unpitched"},
    "part": {"measure", "note", "backup", "forward", "attributes", "direction", "sound", "barline"},
    "measure": {"part", "note", "backup", "forward", "attributes", "direction", "sound", "barline"},
    "note": {"grace", "chord", "cue", "pitch", "unpitched", "rest", "duration", "tie", "staff", "instrument"},
    "pitch": {"step", "alter", "octave"},
    "backup": {"duration"},
    "forward": {"duration", "staff"},
    "attributes": {"divisions", "key", "time", "transpose"},
    "key": {"fifths", "mode"},
    "time": {"beats", "beat-type"},
    "transpose": {"chromatic", "octave-change"},
    "direction": {"direction-type", "offset", "sound", "staff"},
    "direction-type": {"dynamics", "metronome"},
    "metronome": {"beat-unit", "beat-unit-dot", "per-minute"},
    "dynamics": {"pppp", "ppp", "pp", "p", "mp", "mf", "f", "ff", "fff", "ffff", "fp"},
    "sound": {"offset"},
    "barline": {"repeat", "ending"},
}
_SIGNS = {  # what a library makes an object of
    *("note", "backup", "forward", "attributes", "key", "time", "direction", "sound", "barline", "repeat", "ending"),
    *_STORED["dynamics"],
}
_JUMPS = ("dacapo", "dalsegno", "segno", "coda", "tocoda", "fine")
_ATTRIBUTES = {"id", "number", "type", "times", "direction", "location", "measure", "tempo", _PATH, *_JUMPS}
_NUMBERS: dict[str, tuple[type, float, float]] = {  # an element whose text must be a number: its kind and range
    "duration": (float, 0, 1e9),
    "divisions": (float, 1e-3, 1e9),
    "offset": (float, -1e9, 1e9),
    "octave": (int, -1, 10),
    "alter": (float, -4, 4),
    "staff": (int, 1, MOST_STAVES),
    "fifths": (int, -100, 100),
    "chromatic": (float, -100, 100),
    "octave-change": (int, -9, 9),
}
_UNITS = {  # of a metronome mark, in quarters
    **{"maxima": 32.0, "long": 16.0, "breve": 8.0, "whole": 4.0, "half": 2.0, "quarter": 1.0, "eighth": 0.5},
    **{"16th": 0.25, "32nd": 0.125, "64th": 0.0625},
}
_BEATS = re.compile(r"[1-9]\d?(\+[1-9]\d?){0,9}")  # the upper number of a time
_BEAT_TYPES = ("1", "2", "4", "8", "16", "32", "64")
_STEPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


class Part(NamedTuple):
    """One part of a score."""

    player: Element  # a score-part, with the name and the program of its instrument
    measures: list[Element]  # without repeats, cue notes and what else does not sound
    semitones: list[int]  # of each measure: how much higher it sounds than it is written
    drums: bool  # its pitches are those of General MIDI's drums


class Score(NamedTuple):
    """A score's parts, and all that is written in each measure."""

    parts: list[Part]
    columns: list[list[Element]]  # measure: what each part has there, with repeats, endings and jumps
    warnings: list[str]


def read(data: bytes) -> Score:
    """Read MusicXML: .musicxml, or .mxl, which is a zip with one in it; its root score-partwise or score-timewise.

    Raises:
        MidiError: it is no MusicXML, is damaged, declares entities, or is beyond the limits of this module.
    """
    root = _parse(_unzipped(data) if data[:2] == b"PK" else data, _Builder())
    if root.tag == "score-timewise":
        root = _partwise(root)
    parts = root.findall("part")
    players = {player.get("id"): player for player in root.iterfind("part-list/score-part")}
    if len(parts) > MOST_PARTS or len(players) > MOST_PARTS:
        raise MidiError(f"too large a score: expected at most {MOST_PARTS} parts, got {max(len(parts), len(players))}")
    measures = sum(len(part) for part in parts)
    if measures > MOST_MEASURES:
        raise MidiError(f"too large a score: expected at most {MOST_MEASURES:,} measures, got {measures:,}")
    columns: list[list[Element]] = [[] for _ in range(max(map(len, parts), default=0))]
    for part in parts:
        for k, measure in enumerate(part):
            marks = Element("measure")
            marks.extend([*measure.findall("barline"), *measure.iter("sound")])
            columns[k].append(marks)
    cleaning = _Cleaning()
    return Score([cleaning.part(part, players.get(part.get("id"))) for part in parts], columns, cleaning.warnings())


def _parse(data: bytes, builder: "_Builder") -> Element:
    """Parse XML into a builder."""
    if len(data) > MOST_BYTES:
        raise MidiError(f"too large for a MusicXML file: expected at most {MOST_BYTES:,} bytes, got {len(data):,}")
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.text, _refuse_entity
    builder.line = lambda: parser.CurrentLineNumber
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise MidiError(f"damaged MusicXML: {error}") from error
    assert builder.root is not None
    return builder.root


def _refuse_entity(name: str, *_: object) -> None:
    raise MidiError(f"MusicXML that declares an entity, {name[:30]!r}, is not read: it may grow without end")


class _Builder:
    """Stores the elements of `children` and counts all others."""

    def __init__(self, children: dict[str, set[str]] = _STORED, roots: tuple[str, ...] = _ROOTS):
        self.children, self.roots = children, roots
        self.root: Element | None = None
        self.line: Callable[[], int] = lambda: 0
        self._open: list[Element] = []
        self._skipped = 0  # elements that are open and not stored
        self._elements = self._signs = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Take a start tag."""
        self._elements += 1
        if self._elements > MOST_ELEMENTS:
            raise MidiError(f"too large a score: expected at most {MOST_ELEMENTS:,} elements of XML")
        if len(self._open) + self._skipped >= _DEPTH:
            raise MidiError(f"damaged MusicXML: line {self.line()}: more than {_DEPTH} elements inside one another")
        if self._skipped or (self._open and tag not in self.children.get(self._open[-1].tag, ())):
            self._skipped += 1
            return
        stored = {name: value[:_TEXT] for name, value in attributes.items() if name in _ATTRIBUTES}
        if self._open:
            element = SubElement(self._open[-1], tag, stored)
        elif tag in self.roots:
            element = self.root = Element(tag, stored)
        else:
            raise MidiError(f"not a MusicXML score: its first element is <{tag[:30]}>, expected <{self.roots[0]}>")
        self._open.append(element)
        if tag in _SIGNS:
            self._signs += 1
            if self._signs > MOST_SIGNS:
                raise MidiError(f"too large a score: expected at most {MOST_SIGNS:,} notes, rests and other signs")

    def end(self, tag: str) -> None:
        """Take an end tag."""
        if self._skipped:
            self._skipped -= 1
            return
        element = self._open.pop()
        if tag in _NUMBERS:
            kind, low, high = _NUMBERS[tag]
            value = _number(element.text, kind)
            if value is None or not low <= value <= high:
                raise MidiError(
                    f"damaged MusicXML: line {self.line()}: <{tag}> is {(element.text or '').strip()[:30]!r}, "
                    f"expected {'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}"
                )

    def text(self, data: str) -> None:
        """Take characters."""
        if not self._skipped and self._open and not len(self._open[-1]):
            self._open[-1].text = ((self._open[-1].text or "") + data)[:_TEXT]


def _number(text: str | None, kind: type = float) -> float | None:
    """Read a finite number; None: it is none."""
    try:
        value = kind((text or "").strip())
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _unzipped(data: bytes) -> bytes:
    """Take the score out of an .mxl."""
    if len(data) > MOST_BYTES:
        raise MidiError(f"too large for an .mxl file: expected at most {MOST_BYTES:,} bytes, got {len(data):,}")
    if data.count(b"PK\x01\x02") > _MEMBERS:
        raise MidiError(f"not an .mxl file: a zip with more than {_MEMBERS:,} files")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            named = _named_score(_member(archive, _CONTAINER))
            return _member(archive, named)
    except MidiError:
        raise
    except _ZIP_FAULTS as error:
        raise MidiError(f"a damaged .mxl file: {str(error)[:200] or type(error).__name__}") from error


def _named_score(container: bytes) -> str:
    """Find the name of the score that the table of contents of an .mxl gives first."""
    children = {"container": {"rootfiles"}, "rootfiles": {"rootfile"}}
    root = _parse(container, _Builder(children, ("container",)))
    names = [file.get(_PATH, "") for file in root.iterfind("rootfiles/rootfile")]
    if not names:
        raise MidiError(f"a damaged .mxl file: {_CONTAINER} names no score")
    if not names[0].lower().endswith((".musicxml", ".xml")):
        raise MidiError(f"not an .mxl file: its score is {names[0]!r}, expected a name that ends in .musicxml or .xml")
    return names[0]


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Unpack a file of a zip, within MOST_BYTES."""
    if archive.getinfo(name).compress_type not in _METHODS:
        raise MidiError(f"not an .mxl file: {name!r:.50} is packed by another method than Deflate")
    with archive.open(name) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise MidiError(f"too large for a MusicXML file: expected at most {MOST_BYTES:,} bytes, unpacked, got more")
    return content


def _partwise(timewise: Element) -> Element:
    """Turn a score of measures with parts into one of parts with measures."""
    root = Element("score-partwise")
    root.extend(timewise.findall("part-list"))
    parts: dict[str, Element] = {}
    for measure in timewise.iterfind("measure"):
        for part in measure.iterfind("part"):
            name = part.get("id", "")
            if name not in parts:
                parts[name] = SubElement(root, "part", {"id": name})
            SubElement(parts[name], "measure").extend(part)
    return root


class _Cleaning:
    """Rewrites parts so that a library finds nothing in them but what sounds, and only numbers that it can bear."""

    def __init__(self) -> None:
        self._unnamed_drums = self._odd_tempos = 0

    def warnings(self) -> list[str]:
        """List what was left out."""
        return [
            line.format(count)
            for line, count in (
                ("{:,} unpitched notes are left out: the file does not say what strikes them", self._unnamed_drums),
                ("{:,} tempos that are none are left out", self._odd_tempos),
            )
            if count
        ]

    def part(self, part: Element, player: Element | None) -> Part:
        """Rewrite a part in its place."""
        listed = Element("score-part", {"id": "P"})
        strokes: dict[str | None, int] = {}
        for each in player if player is not None else ():
            program, stroke = (_number(each.findtext(tag), int) for tag in ("midi-program", "midi-unpitched"))
            if stroke is not None and 1 <= stroke <= 128:
                strokes[each.get("id")] = int(stroke) - 1
            if each.tag == "score-instrument" or (program is not None and 1 <= program <= 128):
                each[:] = [element for element in each if element.tag != "midi-unpitched"]
                listed.append(each)
        drums = part.find(".//unpitched") is not None
        divisions, higher, semitones = 1.0, 0, []
        for measure in part:
            if (transpose := measure.find("attributes/transpose")) is not None:
                octaves = int(transpose.findtext("octave-change") or 0)
                higher = round(float(transpose.findtext("chromatic") or 0)) + 12 * octaves
            semitones.append(higher)
            divisions = self._measure(measure, divisions, strokes)
        return Part(listed, list(part), semitones, drums)

    def _measure(self, measure: Element, divisions: float, strokes: dict[str | None, int]) -> float:
        """Rewrite a measure; return the divisions of a quarter behind it."""
        content = [element for element in measure if element.tag not in ("barline", "part")]
        del measure[:]
        present: set[str] = set()
        for element in content:
            if element.tag == "attributes":
                divisions = float(element.findtext("divisions") or divisions)
                element[:] = _read_attributes(element, present)
                measure.append(element)
            elif element.tag in ("note", "forward", "backup"):
                if float(element.findtext("duration") or 0) / divisions > MOST_QUARTERS:
                    raise MidiError(f"damaged MusicXML: a note of more than {MOST_QUARTERS:,} quarters")
                if element.tag == "forward":  # else a library does not count it as a part of the measure
                    element.tag = "note"
                    element.insert(0, Element("rest"))
                if element.tag == "backup" or self._note(element, strokes):
                    _detach(element, measure)
                    measure.append(element)
            else:
                measure.extend(self._direction(element, divisions))
        return divisions

    def _note(self, note: Element, strokes: dict[str | None, int]) -> bool:
        """Rewrite a note; return False if nothing is left of it. One that does not sound becomes a rest."""
        unpitched, instrument = note.find("unpitched"), note.find("instrument")
        stroke = strokes.get(instrument.get("id") if instrument is not None else None)
        if stroke is None and len(strokes) == 1:
            stroke = next(iter(strokes.values()))
        silent = note.find("cue") is not None
        if unpitched is not None and not silent and stroke is None:
            self._unnamed_drums += 1
            silent = True
        dropped = ("unpitched", "cue", "instrument", *(("pitch", "tie", "grace") if silent else ()))
        note[:] = [element for element in note if element.tag not in dropped]
        if silent:
            note.insert(0, Element("rest"))
            return note.find("chord") is None and note.find("duration") is not None
        if unpitched is not None and stroke is not None:
            name = _STEPS[stroke % 12]
            pitch = Element("pitch")
            for tag, text in (("step", name[0]), ("alter", str(len(name) - 1)), ("octave", str(stroke // 12 - 1))):
                SubElement(pitch, tag).text = text
            note.insert(0, pitch)
        pitch_of = note.find("pitch")
        if pitch_of is not None:
            if (pitch_of.findtext("step") or "").strip() not in tuple("ABCDEFG") or pitch_of.find("octave") is None:
                raise MidiError("damaged MusicXML: a pitch without a step from A to G or without an octave")
            return note.find("grace") is not None or note.find("duration") is not None
        return note.find("rest") is not None and note.find("duration") is not None

    def _direction(self, element: Element, divisions: float) -> list[Element]:
        """Turn a direction, or a sound, into one with a tempo, one with dynamics, both or none."""
        offset = element.find("offset")
        if offset is not None and abs(float(offset.text or 0)) / divisions > MOST_QUARTERS:
            raise MidiError(f"damaged MusicXML: an offset of more than {MOST_QUARTERS:,} quarters")
        directions: list[Element] = []
        tempo = self._tempo(element)
        if tempo is not None:
            sound = Element("sound", {"tempo": f"{tempo:.6f}"})
            sound.extend([] if offset is None else [offset])
            directions.append(sound)
        dynamics = element.find("direction-type/dynamics")
        if dynamics is not None and len(dynamics):
            direction = Element("direction")
            SubElement(direction, "direction-type").append(dynamics)
            direction.extend([child for child in (offset,) if child is not None])
            directions.append(direction)
        return directions

    def _tempo(self, element: Element) -> float | None:
        """Find a direction's tempo in quarters a minute: what it says of the sound, else its metronome mark."""
        sound = element if element.tag == "sound" else element.find("sound[@tempo]")
        metronome = element.find("direction-type/metronome")
        tempo: float | None
        if sound is not None and "tempo" in sound.attrib:
            tempo = _number(sound.get("tempo"))
        elif metronome is not None and len(metronome.findall("beat-unit")) == 1:
            number = re.search(r"\d{1,4}(\.\d{1,3})?", metronome.findtext("per-minute") or "")
            unit = _UNITS.get((metronome.findtext("beat-unit") or "").strip())
            if not number or unit is None:
                return None
            tempo = float(number[0]) * unit * (2 - 0.5 ** len(metronome.findall("beat-unit-dot")))
        else:
            return None
        if tempo is None or not _TEMPOS[0] <= tempo <= _TEMPOS[1]:
            self._odd_tempos += 1
            return None
        return tempo


def _detach(note: Element, measure: Element) -> None:
    """Let a note begin with the element before it, where it is in a chord with something that is no pitched note."""
    chord = note.find("chord")
    if chord is None or (len(measure) and measure[-1].find("pitch") is not None):
        return
    note.remove(chord)
    if len(measure) and measure[-1].tag == "note":
        SubElement(SubElement(measure, "backup"), "duration").text = measure[-1].findtext("duration")


def _read_attributes(attributes: Element, present: set[str]) -> list[Element]:
    """List of some attributes the divisions, and the first key and time of a measure that MIDI can say.

    `present` has the names of those that the measure already has. A library needs half a millisecond for each time.
    """
    stored = attributes.findall("divisions")[:1]
    for element in attributes:
        if element.tag in present:
            continue
        if element.tag == "key" and abs(int(element.findtext("fifths") or 99)) <= 7:
            stored.append(element)
        elif element.tag == "time":
            tops = [(beats.text or "").strip() for beats in element.iterfind("beats")]
            bottoms = [(kind.text or "").strip() for kind in element.iterfind("beat-type")]
            good = all(map(_BEATS.fullmatch, tops)) and all(bottom in _BEAT_TYPES for bottom in bottoms)
            if not 0 < len(tops) < 10 or len(tops) != len(bottoms) or not good:
                continue
            stored.append(element)
        else:
            continue
        present.add(element.tag)
    return stored
