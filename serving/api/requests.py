"""An HTTP request → GenerateRequest, validated and immutable. Knows nothing of models or of how a reply is made.

Seed: the multipart part `seed`, or the raw body, or absent. Parameters: in the query or the form. An unknown parameter
is refused, as a misspelt one that is silently ignored costs its user an hour. An empty parameter counts as absent, as a
browser sends one for each field that nobody filled.
"""

import difflib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import flask
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import NotAcceptable, RequestEntityTooLarge, UnprocessableEntity, UnsupportedMediaType

from music import midi
from music import notes as nt
from music.errors import EncodingError, MidiError, MissingDependency
from music.generation import MOST_NEW_NOTES, MOST_SECONDS, NEW_NOTES, Settings
from music.midi import Grid
from music.notes import Notes
from serving.middleware.concurrency import ConcurrencyLimit

MIDI_TYPES = ("audio/midi", "audio/mid", "audio/x-midi", "audio/x-mid", "audio/sp-midi", "application/x-midi")
SCORE_TYPES = ("application/vnd.recordare.musicxml+xml", "application/vnd.recordare.musicxml")  # .musicxml, .mxl
FORMATS = {  # name: the media types that ask for it; the first one is the reply's
    "mid": MIDI_TYPES,
    "json": ("application/json",),
    "ndjson": ("application/x-ndjson", "application/ndjson"),
    "wav": ("audio/wav", "audio/x-wav", "audio/wave"),
    "mp3": ("audio/mpeg", "audio/mp3"),
    "png": ("image/png",),
    "musicxml": SCORE_TYPES[:1],
}
MOST_NOTES = 30_000  # of a seed; MAESTRO's longest piece has 25,076, a 5 MB file may hold 800,000
READERS = 2  # files read at once: each may take a core for seconds, and up to 500 MB
WAITING = 32  # requests whose file waits: all that may generate a piece at once may send their seed in one instant
RAW_TYPES = (*MIDI_TYPES, *SCORE_TYPES, "application/octet-stream")  # which one it is, its bytes say
_FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class Seed:
    """What is continued."""

    notes: Notes  # empty: a new piece
    warnings: tuple[str, ...] = ()  # what was damaged in its file, or left out
    keys: Notes = field(default_factory=nt.empty)  # the same notes, without the pedal: each ends with its key
    grid: Grid | None = None  # tempo map, metres, keys and names of its file

    def shifted(self, seconds: float) -> "Seed":
        """Move the seed later by `seconds`."""
        grid = self.grid and self.grid.shifted(seconds)
        return replace(self, notes=nt.shift(self.notes, seconds), keys=nt.shift(self.keys, seconds), grid=grid)


@dataclass(frozen=True)
class GenerateRequest:
    """What a client asks for."""

    seed: Seed
    settings: Settings  # its random_seed is always set
    include_seed: bool  # the reply begins with the seed's own notes
    format: str  # a key of FORMATS
    program: int | None = None  # the instrument of every note that is not a drum; None: as the notes say
    originality: bool = False  # report the longest run of new notes that the training set also has
    from_start: bool = False  # the clock of the reply begins with its first note
    tempo_map: str = "seed"  # of TEMPO_MAPS
    pedal: bool = False  # a MIDI file has a sustain pedal and shorter keys


@dataclass(frozen=True)
class Number:
    """A parameter's range, both ends included unless said otherwise."""

    kind: type  # int or float
    low: float
    high: float
    above: bool = False  # low itself is outside
    below: bool = False  # high itself is outside

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        low, high = "above" if self.above else "from", "and below" if self.below else "to"
        return f"{noun} {low} {self.low} {high} {self.high}"

    def parse(self, text: str) -> int | float:
        """Read a number. Raises ValueError for a text that is none, or a number outside the range; nan is outside."""
        value = self.kind(text)
        inside = self.low <= value <= self.high and math.isfinite(value)
        if not inside or (self.above and value == self.low) or (self.below and value == self.high):
            raise ValueError(text)
        return value


NUMBERS = {
    "notes": Number(int, 1, MOST_NEW_NOTES),
    "temperature": Number(float, 0, 2),
    "top_p": Number(float, 0, 1, above=True),
    "min_p": Number(float, 0, 1, below=True),
    "random_seed": Number(int, 0, 2**32 - 1),
    "density": Number(float, 0, 100, above=True),
    "loudness": Number(float, 1, 127),
    "seconds": Number(float, 0, MOST_SECONDS, above=True),
    "program": Number(int, 0, 127),
    "seed_start": Number(float, 0, 86_400),
    "seed_end": Number(float, 0, 86_400, above=True),
    "seed_notes": Number(int, 1, MOST_NOTES),
}
_PART = ("seed_start", "seed_end", "seed_notes")  # which part of the seed's file is the seed
BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
DEFAULTS = {"notes": NEW_NOTES, **{name: getattr(Settings(), name) for name in ("temperature", "top_p", "min_p")}}
FLAGS = {"include_seed": True, "from_start": False, "pedal": False, "originality": False}  # and their defaults
TEMPO_MAPS = ("seed", "estimate")  # of a MIDI file: the seed's, or the estimated beats where the seed is not on its own
PARAMETERS = (*NUMBERS, *FLAGS, "style", "tempo_map", "format")


def reading_limit() -> ConcurrencyLimit:
    """Make the limit of how many files of music one app reads at once."""
    return ConcurrencyLimit("reading files", READERS, waiting=WAITING)


def parse(request: flask.Request, reading: ConcurrencyLimit) -> GenerateRequest:
    """Read a request to /generate; `reading` limits how many files are read at once.

    Raises:
        HTTPException: 400, 406, 413, 415 or 422, its description for a person to read.
        MidiError, EncodingError: the seed is neither MIDI nor MusicXML, has no notes, or too many.
        Overloaded: too many files are being read.
    """
    data = _seed(request)
    texts = _parameters(request)
    numbers: dict[str, Any] = {name: _number(name, texts[name]) for name in NUMBERS if name in texts}
    numbers.setdefault("random_seed", secrets.randbelow(2**32))
    part = {name: numbers.pop(name) for name in _PART if name in numbers}
    if part and data is None:
        raise UnprocessableEntity(f"{next(iter(part))}: expected a seed as well, to take a part of, got none")
    return GenerateRequest(
        program=numbers.pop("program", None),
        seed=Seed(nt.empty()) if data is None else _read(data, reading, **part),
        settings=Settings(**numbers, style=texts.get("style")),
        **{name: _bool(name, texts[name]) if name in texts else default for name, default in FLAGS.items()},
        tempo_map=_tempo_map(texts.get("tempo_map", TEMPO_MAPS[0])),
        format=_format(texts.get("format"), request),
    )


def read_seed(request: flask.Request, reading: ConcurrencyLimit) -> Seed:
    """Read the seed of a request that must have one, and nothing else. Raises what `parse` raises."""
    data = _seed(request)
    if unknown := [name or "" for name in (*request.args, *request.form, *request.files) if name != "seed"]:
        raise UnprocessableEntity(
            f"unknown parameter {unknown[0][:50]!r}: expected a file named 'seed', and nothing else"
        )
    if data is None:
        raise MidiError("no MIDI file: send one as the body (Content-Type: audio/midi) or as the part 'seed' of a form")
    return _read(data, reading)


def _seed(request: flask.Request) -> bytes | None:
    """Return the seed's bytes, or None where the request has none."""
    kind = request.mimetype
    if not request.content_length and not request.headers.get("Transfer-Encoding"):
        if kind in MIDI_TYPES or kind in SCORE_TYPES:
            raise MidiError("the body is said to be music but is empty; for a new piece send no Content-Type")
        return None
    if kind in _FORM_TYPES:
        if not (request.form or request.files) or any(name and name.startswith("MThd") for name in request.form):
            raise UnsupportedMediaType(
                f"a body of type {kind} that is no such form; a MIDI file needs the header 'Content-Type: audio/midi'"
            )
        return _part(request)
    if kind and kind not in RAW_TYPES:
        raise UnsupportedMediaType(
            f"a body of type {kind}: expected a MIDI or a MusicXML file as one of {', '.join(RAW_TYPES)}, or a form"
        )
    data = request.get_data(cache=False)  # also without a type
    if request.content_length is None and len(data) == request.max_content_length:
        raise RequestEntityTooLarge  # werkzeug cuts a chunked body off at the limit without a word
    return data


def _part(request: flask.Request) -> bytes | None:
    """Return the part `seed` of a form; a file field that was left empty in a browser has no name."""
    if "seed" in request.form:
        raise MidiError("'seed' is text, expected a file; with curl: -F seed=@music.mid")
    parts: list[FileStorage] = request.files.getlist("seed")
    if len(parts) > 1:
        raise UnprocessableEntity(f"expected one part 'seed', got {len(parts)}")
    data = parts[0].read() if parts else None
    return None if parts and not data and not parts[0].filename else data


def _parameters(request: flask.Request) -> Mapping[str, str]:
    """Return the parameters of query and form, each name once; empty ones are left out."""
    sources = [request.args] + ([request.form] if request.mimetype in _FORM_TYPES else [])
    pairs = [(name or "", value.strip()) for source in sources for name, value in source.items(multi=True)]
    names = [name for name, _ in pairs] + [name or "" for name in request.files if name != "seed"]
    for name in names:
        if name not in PARAMETERS:
            close = difflib.get_close_matches(name, (*PARAMETERS, "seed"), 1)
            hint = f", did you mean {close[0]!r}?" if close else "."
            raise UnprocessableEntity(
                f"unknown parameter {name[:50]!r}{hint} Expected {', '.join(PARAMETERS)}, and a file named 'seed'"
            )
        if names.count(name) > 1:
            raise UnprocessableEntity(f"{name} is given {names.count(name)} times, expected once")
    return {name: value for name, value in pairs if value}


def _number(name: str, text: str) -> int | float:
    try:
        return NUMBERS[name].parse(text)
    except ValueError as error:
        raise UnprocessableEntity(f"{name}: expected {NUMBERS[name]}, got {text[:50]!r}") from error


def _bool(name: str, text: str) -> bool:
    if text.lower() not in BOOLS:
        raise UnprocessableEntity(f"{name}: expected true or false, got {text[:50]!r}")
    return BOOLS[text.lower()]


def _tempo_map(text: str) -> str:
    if text.lower() not in TEMPO_MAPS:
        raise UnprocessableEntity(f"tempo_map: expected {' or '.join(TEMPO_MAPS)}, got {text[:50]!r}")
    return text.lower()


def _format(name: str | None, request: flask.Request) -> str:
    """Choose the parameter, else the Accept header, else MIDI; MIDI for a browser, too, which would take a picture."""
    if name is None and "text/html" in request.accept_mimetypes.values():
        name = "mid"
    if name is None:
        types = {kind: format for format, kinds in FORMATS.items() for kind in kinds}
        wanted = request.accept_mimetypes
        name = types.get(wanted.best_match(list(types)) or "") if wanted else "mid"
        if name is None:
            raise NotAcceptable(f"Accept: {wanted}: this server makes {', '.join(types)}")
    if name.lower() not in FORMATS:
        raise NotAcceptable(f"format {name[:50]!r}: this server makes {', '.join(FORMATS)}")
    return name.lower()


def _read(
    data: bytes,
    reading: ConcurrencyLimit,
    seed_start: float = 0.0,
    seed_end: float = math.inf,
    seed_notes: int | None = None,
) -> Seed:
    """Read the notes that begin in [seed_start, seed_end) seconds, cut at its end; of these the last `seed_notes`.

    Raises:
        UnprocessableEntity: the part ends before it begins.
        MidiError, EncodingError: the seed is not MIDI; the part has no notes, or too many.
        Overloaded: too many MIDI files are being read.
    """
    if seed_end <= seed_start:
        raise UnprocessableEntity(f"seed_end: expected more than seed_start, {seed_start:g}, got {seed_end:g}")
    if not data:
        raise MidiError("the seed is empty, expected a MIDI or a MusicXML file")
    with reading.take():
        try:
            file = midi.parse(data)
        except MissingDependency as error:
            raise UnsupportedMediaType(f"this server reads no MusicXML, export it as MIDI; {error}") from error
        notes, warnings = midi.read_with_warnings(file)
        keys, grid = midi.read(file, pedal=False), midi.grid(file)
    if not len(notes):
        reasons = "".join(f"; {warning}" for warning in warnings)
        raise EncodingError(f"the seed is a file without notes, so there is nothing to continue{reasons}")
    last = slice(None if seed_notes is None else -seed_notes, None)
    part, keys = (nt.between(each, seed_start, seed_end)[last] for each in (notes, keys))
    if not len(part):
        raise EncodingError(
            f"seed_start, seed_end: expected a part in which a note begins; the seed has {len(notes):,}, from "
            f"{nt.first_onset(notes):.1f} s to {nt.length(notes):.1f} s"
        )
    if len(part) > MOST_NOTES:
        raise EncodingError(f"the seed has {len(part):,} notes, expected at most {MOST_NOTES:,}")
    return Seed(part, tuple(warnings), keys, grid)
