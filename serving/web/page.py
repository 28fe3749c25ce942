"""The page for people, and what it needs: examples to begin with, the notes of a file, the sound of a piano.

All of it comes from this server, so that a browser never asks another host. Knows nothing of how music is generated.
"""

import functools
import hashlib
from pathlib import Path

import flask

from music import midi
from music.audio import browser_samples, sound_fonts
from music.errors import EncodingError, MusicError
from music.examples.pieces import EXAMPLES
from music.generation import Generator
from music.notes import Notes, pitched
from serving.api import requests, responses
from serving.api.services import Services

ANSWERS = {  # choices of the form that works without scripts: the formats that are files
    "mid": "MIDI file",
    "mp3": "sound, MP3",
    "wav": "sound, WAV",
    "png": "picture, PNG",
    "musicxml": "score, MusicXML",
}
SOUND_FONT = "TimGM6mb by Tim Brechbill and David Bolton, GNU GPL version 2"
_DAY = 24 * 3600  # seconds


def index(services: Services) -> str:
    """Show the page."""
    return flask.render_template(
        "index.html",
        numbers=requests.NUMBERS,
        instruments=[midi.instrument_name(program) for program in range(128)],
        answers=ANSWERS,
        most_seconds=responses.MOST_SECONDS,
        examples=EXAMPLES,
        sound_font=SOUND_FONT,
    )


def example(services: Services, name: str) -> flask.Response:
    """Send a beginning that was made for this project, as MIDI."""
    if name not in EXAMPLES:
        flask.abort(404)
    return _cached(_example(name), requests.MIDI_TYPES[0])


def notes(services: Services) -> dict:
    """Show the notes of a MIDI or a MusicXML file as `/generate` reads them; the errors are the same."""
    seed = requests.read_seed(flask.request, services.reading)
    played = pitched(seed.notes)
    unread = _unread(services.generator, played)
    return {
        "notes": responses.as_json(played),
        "drums": len(seed.notes) - len(played),
        **({"unheard_notes": unread} if unread else {}),
        **responses.warnings(seed),
    }


def piano(services: Services) -> flask.Response:
    """Say which sample of /piano.pcm each key plays, and how: `music.audio.browser_samples` explains the names."""
    instrument = _piano(sound_fonts.default())
    facts = {"name": instrument.name, "font": SOUND_FONT, "samples": instrument.samples, "zones": instrument.zones}
    return _cached(responses.dumps(facts).encode(), "application/json")


def frames(services: Services) -> flask.Response:
    """Send the samples: 16 bits each, the lower byte first, one channel."""
    return _cached(_piano(sound_fonts.default()).frames.astype("<i2").tobytes(), "application/octet-stream")


VIEWS = (
    ("GET", "/", index),
    ("GET", "/examples/<name>.mid", example),
    ("POST", "/notes", notes),
    ("GET", "/piano.json", piano),
    ("GET", "/piano.pcm", frames),
)


@functools.cache
def _example(name: str) -> bytes:
    return midi.write(EXAMPLES[name].notes())


@functools.cache
def _piano(font: Path) -> browser_samples.Instrument:
    return browser_samples.read(font)


def _unread(generator: Generator, notes: Notes) -> int:
    """Count the notes that the model cannot express; 0 if it cannot be asked. Raises EncodingError if it can none."""
    try:
        card, _ = generator.describe()
        return len(notes) - len(card.encoding.supported_notes(notes))
    except EncodingError:
        raise
    except MusicError:
        return 0


def _cached(body: bytes, kind: str) -> flask.Response:
    """Make a reply that a browser keeps for a day; after that it asks whether the reply has changed."""
    response = flask.Response(body, mimetype=kind)
    response.set_etag(hashlib.sha256(body).hexdigest()[:16])
    response.cache_control.max_age = _DAY
    response.cache_control.public = True
    response.make_conditional(flask.request)
    return response
