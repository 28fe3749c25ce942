"""A stream of notes → an HTTP reply: MIDI, JSON, or NDJSON line by line. Knows nothing of models.

MIDI and JSON are complete before their headers go out, so an error in the middle of a piece has its own status code.
NDJSON is sent as the music is made; an error in the middle is its last line.
"""

import json
import logging
from collections.abc import Iterator

import flask
import numpy as np

from music import midi
from music import notes as nt
from music.errors import MusicError
from music.generation import Chunk
from music.notes import Notes
from serving import problems
from serving.requests import FORMATS, GenerateRequest

_log = logging.getLogger(__name__)


def reply(request: GenerateRequest, chunks: Iterator[Chunk]) -> flask.Response:
    """Answer in the format asked for. Raises what `chunks` raises: in a stream, only for the first of them."""
    return _MAKERS[request.format](request, chunks)


def _midi(request: GenerateRequest, chunks: Iterator[Chunk]) -> flask.Response:
    pieces = list(chunks)
    made = [chunk.notes for chunk in pieces]
    response = _whole(request, pieces, midi.write(np.concatenate([request.seed, *made][not request.include_seed :])))
    name = f"{pieces[-1].model.replace('/', '-')}-{request.settings.random_seed}.mid"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def _json(request: GenerateRequest, chunks: Iterator[Chunk]) -> flask.Response:
    pieces = list(chunks)
    made = np.concatenate([chunk.notes for chunk in pieces])
    return _whole(request, pieces, _dumps({
        "model": _models(pieces),
        "random_seed": request.settings.random_seed,
        "ended": pieces[-1].ended,
        "notes": _seed_notes(request) + _notes(made, _last_onset(request.seed)),
    }) + "\n")  # fmt: skip


def _ndjson(request: GenerateRequest, chunks: Iterator[Chunk]) -> flask.Response:
    """The first line names the model and the random seed; the seed's notes come next, then a line per new note."""
    first = next(chunks)
    headers = _headers(request, first.model)
    headers["X-Accel-Buffering"] = "no"  # a proxy in front should pass each line on as well
    lines = _lines(request, first, chunks)
    return flask.Response(lines, headers=headers, mimetype=FORMATS["ndjson"][0])


def _lines(request: GenerateRequest, first: Chunk, rest: Iterator[Chunk]) -> Iterator[str]:
    opening = [{"model": first.model, "random_seed": request.settings.random_seed}, *_seed_notes(request)]
    onset = _last_onset(request.seed)
    yield _joined([*opening, *_notes(first.notes, onset)])
    last = first
    try:
        onset = _last_onset(first.notes, onset)
        for chunk in rest:
            change = [{"model": chunk.model}] if chunk.model != last.model else []
            yield _joined(change + _notes(chunk.notes, onset))
            last, onset = chunk, _last_onset(chunk.notes, onset)
        yield _joined([{"end": last.ended}])
    except MusicError as error:
        yield _joined([{"error": str(error), "status": problems.status_of(error)}])
    except Exception:
        _log.exception("a stream broke off")
        yield _joined([{"error": "something broke on the server's side; its log says what", "status": 500}])


_MAKERS = {"mid": _midi, "json": _json, "ndjson": _ndjson}


def _whole(request: GenerateRequest, pieces: list[Chunk], body: str | bytes) -> flask.Response:
    headers = _headers(request, _models(pieces))
    headers["X-Notes"] = str(sum(len(chunk.notes) for chunk in pieces))  # new ones, the seed's not counted
    headers["X-Ended"] = str(pieces[-1].ended)
    return flask.Response(body, headers=headers, mimetype=FORMATS[request.format][0])


def _headers(request: GenerateRequest, model: str) -> dict[str, str]:
    return {"X-Random-Seed": str(request.settings.random_seed), "X-Model": model}


def _models(pieces: list[Chunk]) -> str:
    """The model, or the models in their order where a new version came in the middle of the piece."""
    return ", ".join(dict.fromkeys(chunk.model for chunk in pieces))


def _seed_notes(request: GenerateRequest) -> list[dict]:
    """The seed's notes, marked as such; none if they were not asked for."""
    return [{**note, "seed": True} for note in _notes(request.seed, None)] if request.include_seed else []


def _notes(notes: Notes, after: float | None) -> list[dict]:
    """Notes as JSON objects; `after` is the onset before the first one, None where there is none."""
    steps = np.diff(notes["start"], prepend=notes["start"][:1] if after is None else after)
    return [
        {
            "pitch": int(note["pitch"]),
            "name": nt.name(int(note["pitch"])),
            "start": _seconds(note["start"]),
            "end": _seconds(note["end"]),
            "velocity": int(note["velocity"]),
            "step": _seconds(step),
            "duration": _seconds(note["end"] - note["start"]),
        }
        for note, step in zip(notes, steps, strict=True)
    ]


def _last_onset(notes: Notes, before: float | None = None) -> float | None:
    return float(notes["start"][-1]) if len(notes) else before


def _seconds(value: float) -> float:
    """To the microsecond: 0.1 + 0.2 is 0.3."""
    return round(float(value), 6)


def _dumps(value: dict) -> str:
    return json.dumps(value, separators=(",", ":"))


def _joined(lines: list[dict]) -> str:
    return "".join(_dumps(line) + "\n" for line in lines)
