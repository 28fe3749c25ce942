"""Chunks of notes → an HTTP reply: MIDI, JSON, sound, picture, score, or NDJSON line by line. Knows no models.

All but NDJSON are complete before their headers go out, so an error in the middle of a piece has its own status code.
NDJSON is sent while the music is generated; an error in the middle is its last line.
"""

import importlib.util
import itertools
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import flask
import numpy as np
from werkzeug.exceptions import ClientDisconnected

from music import audio, midi
from music import notes as nt
from music.errors import EncodingError, MissingDependency, MusicError
from music.generation import Chunk
from music.notation import beats
from music.notes import Notes
from music.plots.piano_roll import piano_roll
from serving.api import problems
from serving.api.rendering import Renderers
from serving.api.requests import FORMATS, GenerateRequest, Seed

MOST_SECONDS = 1800  # of sound, a picture, a score, estimated beats; as MP3, the slowest, they take a core for a minute
MOST_SCORED = 8000  # notes of a score: 2.3 ms each
_BLOCK = 2**16  # bytes of a file sent at once
_MOST_HEADER = 1000  # characters of a header's text
_COMPACT = json.JSONEncoder(separators=(",", ":"))  # json.dumps would make an encoder for each line
_log = logging.getLogger(__name__)


def reply(request: GenerateRequest, chunks: Iterator[Chunk], renderers: Renderers) -> flask.Response:
    """Make the reply in the requested format. Raises what `chunks` raises: in a stream, only for the first of them."""
    if request.from_start:
        request, chunks = _from_start(request, chunks)
    return _MAKERS[request.format](request, chunks, renderers)


def _from_start(request: GenerateRequest, chunks: Iterator[Chunk]) -> tuple[GenerateRequest, Iterator[Chunk]]:
    """Move seed and chunks to a clock that begins with the first note of the reply; the seed's may be below 0 there."""
    begun: list[Chunk] = []
    offset = nt.first_onset(request.seed.notes)
    if not (request.include_seed and len(request.seed.notes)):
        for chunk in chunks:  # up to the first new note
            begun.append(chunk)
            if len(chunk.notes):
                break
        offset = nt.first_onset(begun[-1].notes)
    moved = (_earlier(chunk, offset) for chunk in itertools.chain(begun, chunks))
    return replace(request, seed=request.seed.shifted(-offset)), moved


def _earlier(chunk: Chunk, seconds: float) -> Chunk:
    """Move a chunk, and the run of notes that it reports, earlier."""
    run = chunk.longest_run
    run = run and run._replace(start=run.start - seconds)
    return chunk._replace(notes=nt.shift(chunk.notes, -seconds), longest_run=run)


def _midi(request: GenerateRequest, chunks: Iterator[Chunk], renderers: Renderers) -> flask.Response:
    grid = request.seed.grid
    if request.tempo_map == "estimate" and not beats.is_on_grid(request.seed.keys, grid):
        pieces, seed, continuation = _rendered_parts(request, chunks)
        notes = nt.sort(np.concatenate([seed, continuation]))
        notes = notes[notes["program"] != nt.DRUMS]
        grid = renderers.draw(beats.estimated_grid, notes, grid) if len(notes) else grid
    else:
        pieces = list(chunks)
        seed, continuation = _parts(request, pieces)
    return _file(request, pieces, midi.write(continuation, before=seed, grid=grid, pedal=request.pedal))


def _sound(request: GenerateRequest, chunks: Iterator[Chunk], renderers: Renderers) -> flask.Response:
    """Make WAV or MP3. It goes through a file, as a WAV is 10 MB a minute."""
    audio.check()  # before the music is generated in vain
    pieces, *parts = _rendered_parts(request, chunks)
    with ExitStack() as failing:
        file = failing.enter_context(tempfile.TemporaryFile())
        renderers.write_sound(np.concatenate(parts), file, request.format)
        failing.pop_all()
    response = _file(request, pieces, _read(file))
    response.content_length = file.seek(0, os.SEEK_END)
    return response


def _picture(request: GenerateRequest, chunks: Iterator[Chunk], renderers: Renderers) -> flask.Response:
    """Make a piano roll, seed and continuation in two colours."""
    _require("matplotlib", "plots", request)
    pieces, seed, continuation = _rendered_parts(request, chunks)
    parts = {"seed": seed, "continuation": continuation} if len(seed) else continuation
    with tempfile.TemporaryDirectory() as folder:
        renderers.draw(piano_roll, parts, Path(folder, "roll.png"))
        return _file(request, pieces, Path(folder, "roll.png").read_bytes())


def _json(request: GenerateRequest, chunks: Iterator[Chunk], renderers: Renderers) -> flask.Response:
    pieces = list(chunks)
    continuation = np.concatenate([chunk.notes for chunk in pieces])
    return _complete(request, pieces, dumps({
        "model": _models(pieces),
        "random_seed": request.settings.random_seed,
        **_remarks(request, pieces[0]),
        "ended": pieces[-1].ended,
        **_longest_run(pieces[-1]),
        "notes": _seed_notes(request) + as_json(continuation, _last_onset(request.seed.notes)),
    }) + "\n")  # fmt: skip


def _ndjson(request: GenerateRequest, chunks: Iterator[Chunk], renderers: Renderers) -> flask.Response:
    """Make a stream: a line with model and random seed, then the seed's notes, then a line for each new note."""
    first = next(chunks)
    headers = _headers(request, first.model, first)
    headers["X-Accel-Buffering"] = "no"  # a proxy in front should pass each line on as well
    lines = _lines(request, first, chunks)
    return flask.Response(lines, headers=headers, mimetype=FORMATS["ndjson"][0])


def _lines(request: GenerateRequest, first: Chunk, rest: Iterator[Chunk]) -> Iterator[str]:
    opening = {"model": first.model, "random_seed": request.settings.random_seed, **_remarks(request, first)}
    onset = _last_onset(request.seed.notes)
    yield _joined([opening, *_seed_notes(request), *as_json(first.notes, onset)])
    last = first
    try:
        onset = _last_onset(first.notes, onset)
        for chunk in rest:
            change = [{"model": chunk.model}] if chunk.model != last.model else []
            yield _joined(change + as_json(chunk.notes, onset))
            last, onset = chunk, _last_onset(chunk.notes, onset)
        yield _joined([{"end": last.ended, **_longest_run(last)}])
    except ClientDisconnected:
        return  # nobody reads the rest
    except MusicError as error:
        problems.note(error)
        yield _joined([{"error": str(error), "status": problems.status_of(error)}])
    except Exception as error:
        problems.note(error)
        _log.exception("a stream broke off")
        yield _joined([{"error": "something broke on the server's side; its log says what", "status": 500}])


def _score(request: GenerateRequest, chunks: Iterator[Chunk], renderers: Renderers) -> flask.Response:
    """Make MusicXML: on the seed's own grid if the seed lies on it, else with estimated beats."""
    from music.notation import musicxml  # late, as only this format needs what it imports

    musicxml.check()
    pieces, seed, continuation = _rendered_parts(request, chunks)
    exact = beats.is_on_grid(request.seed.keys, request.seed.grid)
    if exact:
        seed, continuation = _parts(request, pieces, request.seed.keys)  # a score shows the ends of the keys
    notes = nt.sort(np.concatenate([seed, continuation]))
    if len(notes) > MOST_SCORED:
        raise EncodingError(f"format 'musicxml': expected at most {MOST_SCORED:,} notes, got {len(notes):,}")
    draw = partial(musicxml.musicxml, grid=request.seed.grid if exact else None, exact=exact)
    return _file(request, pieces, renderers.draw(draw, notes))


_MAKERS = {
    "mid": _midi,
    "json": _json,
    "ndjson": _ndjson,
    "wav": _sound,
    "mp3": _sound,
    "png": _picture,
    "musicxml": _score,
}


def _require(package: str, extra: str, request: GenerateRequest) -> None:
    """Raise MissingDependency if `package` is not installed; before the music is generated in vain."""
    if importlib.util.find_spec(package) is None:
        raise MissingDependency(
            f"format {request.format!r} needs {package}: `pip install '.[{extra}]'` on the server brings it"
        )


def _rendered_parts(request: GenerateRequest, chunks: Iterator[Chunk]) -> tuple[list[Chunk], Notes, Notes]:
    """Return all chunks and their `_parts`. Raises EncodingError if the seed or the piece is too long to render."""
    _check_length(request, request.seed.notes)  # before the music is generated in vain
    pieces = list(chunks)
    seed, continuation = _parts(request, pieces)
    _check_length(request, np.concatenate([seed, continuation]))
    return pieces, seed, continuation


def _check_length(request: GenerateRequest, notes: Notes) -> None:
    if nt.length(notes) > MOST_SECONDS:
        asked = "tempo_map 'estimate'" if request.format == "mid" else f"format {request.format!r}"
        raise EncodingError(
            f"{asked}: expected at most {MOST_SECONDS:,} seconds of music, got "
            f"{math.ceil(10 * nt.length(notes)) / 10:,.1f}; only MIDI with the seed's tempo map and JSON may be longer"
        )


def _parts(request: GenerateRequest, pieces: list[Chunk], keys: Notes | None = None) -> tuple[Notes, Notes]:
    """Return the seed, empty if it is not wanted, and the continuation; both on the requested instrument.

    Args:
        keys: the seed's notes that are returned instead of those with the pedal in their ends.
    """
    seed = request.seed.notes if keys is None else keys
    seed = seed if request.include_seed else nt.empty()
    continuation = np.concatenate([chunk.notes for chunk in pieces])
    if request.program is None:
        return seed, continuation
    return nt.with_program(seed, request.program), nt.with_program(continuation, request.program)


def _file(request: GenerateRequest, pieces: list[Chunk], body: bytes | Iterator[bytes]) -> flask.Response:
    """Make a reply that is saved as a file, named by the model and the random seed that generate it again."""
    response = _complete(request, pieces, body)
    name = f"{pieces[-1].model.replace('/', '-')}-{request.settings.random_seed}.{request.format}"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def _read(file: BinaryIO) -> Iterator[bytes]:
    """Yield all bytes of a file, and close it at the end."""
    with file:
        file.seek(0)
        while data := file.read(_BLOCK):
            yield data


def _complete(request: GenerateRequest, pieces: list[Chunk], body: str | bytes | Iterator[bytes]) -> flask.Response:
    headers = _headers(request, _models(pieces), pieces[0])
    headers["X-Notes"] = str(sum(len(chunk.notes) for chunk in pieces))  # new ones, the seed's not counted
    headers["X-Ended"] = str(pieces[-1].ended)
    for run in _longest_run(pieces[-1]).values():
        headers["X-Longest-Run"] = ", ".join(f"{name}={value}" for name, value in run.items())
    return flask.Response(body, headers=headers, content_type=FORMATS[request.format][0])  # XML says its own charset


def _headers(request: GenerateRequest, model: str, first: Chunk) -> dict[str, str]:
    headers = {"X-Random-Seed": str(request.settings.random_seed), "X-Model": model}
    if first.unread:
        headers["X-Unheard-Notes"] = str(first.unread)
    if request.seed.warnings:
        text = "; ".join(request.seed.warnings)[:_MOST_HEADER]
        headers["X-Warnings"] = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return headers


def _remarks(request: GenerateRequest, first: Chunk) -> dict[str, Any]:
    """Say what of the seed the model has not read, and what was damaged in its file; nothing where all is well."""
    return ({"unheard_notes": first.unread} if first.unread else {}) | warnings(request.seed)


def warnings(seed: Seed) -> dict[str, list[str]]:
    """List what was damaged in the seed's file, if anything was."""
    return {"warnings": list(seed.warnings)} if seed.warnings else {}


def _longest_run(last: Chunk) -> dict[str, dict]:
    """Describe the longest run that is also in the training set, if that was compared; without a run, no start."""
    run = last.longest_run
    if run is None:
        return {}
    times = {"start": round(float(run.start), 6), "seconds": round(float(run.seconds), 6)} if run.notes else {}
    return {"longest_run": {"notes": run.notes, **times}}


def _models(pieces: list[Chunk]) -> str:
    """Name the model, or the models in their order where a new version came in the middle of the piece."""
    return ", ".join(dict.fromkeys(chunk.model for chunk in pieces))


def _seed_notes(request: GenerateRequest) -> list[dict]:
    """Return the seed's notes as JSON objects, marked as such; none if they are not wanted."""
    return [{**note, "seed": True} for note in as_json(request.seed.notes)] if request.include_seed else []


def as_json(notes: Notes, after: float | None = None) -> list[dict]:
    """Turn notes into JSON objects, drums marked as such.

    Args:
        after: the onset in seconds of the note before; None: there is none.
    """
    steps = np.diff(notes["start"], prepend=notes["start"][:1] if after is None else after)
    times = (notes["start"], notes["end"], steps, notes["end"] - notes["start"])
    columns = (notes["pitch"].tolist(), notes["velocity"].tolist(), *map(_seconds, times))  # a record at a time is slow
    objects: list[dict] = [
        {
            "pitch": pitch,
            "name": nt.name(pitch),
            "start": start,
            "end": end,
            "velocity": velocity,
            "step": step,
            "duration": duration,
        }
        for pitch, velocity, start, end, step, duration in zip(*columns, strict=True)
    ]
    for k in np.flatnonzero(notes["program"] == nt.DRUMS):
        objects[k]["drum"] = True
    return objects


def _last_onset(notes: Notes, before: float | None = None) -> float | None:
    return float(notes["start"][-1]) if len(notes) else before


def _seconds(values: np.ndarray) -> list[float]:
    """Round to the microsecond: 0.1 + 0.2 is 0.3."""
    return [round(value, 6) for value in values.tolist()]


def dumps(value: dict) -> str:
    """Write an object as JSON without spaces."""
    return _COMPACT.encode(value)


def _joined(lines: list[dict]) -> str:
    return "".join(dumps(line) + "\n" for line in lines)
