"""The page for people, and what it needs: its beginnings, what a MIDI file holds, and the sound of a piano.

All of it is served from here, so that a browser never asks another host. Knows nothing of how music is generated.
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

ANSWERS = {  # of the form that works without scripts: formats that make a file
    "mid": "MIDI file",
    "mp3": "sound, MP3",
    "wav": "sound, WAV",
    "png": "picture, PNG",
    "musicxml": "score, MusicXML",
}
SOUND_FONT = "TimGM6mb by Tim Brechbill and David Bolton, GNU GPL version 2"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_DAY = 24 * 3600  # seconds


def blueprint(generator: Generator) -> flask.Blueprint:
    """The page's routes; `generator` is asked what it can express."""
    page = flask.Blueprint("page", __name__)

    @page.after_app_request
    def guard(response: flask.Response) -> flask.Response:
        """Every reply says what a browser may do with it."""
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @page.get("/")
    def index() -> str:
        return flask.render_template(
            "index.html",
            numbers=requests.NUMBERS,
            instruments=[midi.instrument_name(program) for program in range(128)],
            answers=ANSWERS,
            most_seconds=responses.MOST_SECONDS,
            examples=EXAMPLES,
            sound_font=SOUND_FONT,
        )

    @page.get("/examples/<name>.mid")
    def example(name: str) -> flask.Response:
        """A beginning made for this project."""
        if name not in EXAMPLES:
            flask.abort(404)
        return _kept(_example(name), requests.MIDI_TYPES[0])

    @page.post("/notes")
    def notes() -> dict:
        """What is in a MIDI file, as `/generate` would hear it; the errors are the same."""
        heard = pitched(found := requests.read_seed(flask.request))
        if len(heard):
            _check(generator, heard)
        return {"notes": responses.as_json(heard), "drums": len(found) - len(heard)}

    @page.get("/piano.json")
    def piano() -> flask.Response:
        """How each key plays which sample of /piano.pcm: `music.audio.browser_samples` says what the names mean."""
        instrument = _piano(sound_fonts.default())
        facts = {"name": instrument.name, "font": SOUND_FONT, "samples": instrument.samples, "zones": instrument.zones}
        return _kept(responses.dumps(facts).encode(), "application/json")

    @page.get("/piano.pcm")
    def frames() -> flask.Response:
        """The samples: 16 bits each, the lower byte first, one channel."""
        return _kept(_piano(sound_fonts.default()).frames.astype("<i2").tobytes(), "application/octet-stream")

    return page


@functools.cache
def _example(name: str) -> bytes:
    return midi.write(EXAMPLES[name].notes())


@functools.cache
def _piano(font: Path) -> browser_samples.Instrument:
    return browser_samples.read(font)


def _check(generator: Generator, notes: Notes) -> None:
    """Raise EncodingError for what the model cannot express; a model that is away says nothing against a seed."""
    try:
        card, _ = generator.describe()
        card.encoding.heard(notes)
    except EncodingError:
        raise
    except MusicError:
        return


def _kept(body: bytes, kind: str) -> flask.Response:
    """A reply that a browser keeps for a day, and then asks whether it has changed."""
    response = flask.Response(body, mimetype=kind)
    response.set_etag(hashlib.sha256(body).hexdigest()[:16])
    response.cache_control.max_age = _DAY
    response.cache_control.public = True
    response.make_conditional(flask.request)
    return response
