"""Notes → sound: FluidSynth's samples, written as WAV, MP3, FLAC or OGG. Knows nothing of models or loudspeakers.

Every program has its own channel (FluidSynth has more than MIDI's sixteen), so all 128 and the drums may play at once.
FluidSynth works in blocks of 64 frames: a note begins at the block nearest to its start, at most 0.7 ms away.

Loudness: no peak exceeds PEAK. A piece at least as loud as half of MAESTRO reaches it; a quieter one stays quieter, by
half of the decibels. The peak is known only at the end, so the samples wait in a temporary file: in memory for three
minutes of music, on disk for more (21 MB a minute).

pyfluidsynth and soundfile are imported when the first sound is made.
"""

import contextlib
import functools
import io
import os
import tempfile
from collections.abc import Iterator
from ctypes import c_int, c_void_p
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from music.audio import sound_fonts
from music.errors import MissingDependency, SettingError, SoundFontError
from music.notes import DRUMS, Notes

RATE = 44_100  # frames a second; a frame is a sample left and one right, float32 in (-1, 1)
TAIL = 1.5  # seconds of sound after the last note's end at most; fewer where it is silent before
PEAK = 0.891  # of full scale: -1 dB, as a lossy format may add a little
FORMATS: dict[str, dict] = {  # name, which is also a file's ending: arguments for soundfile
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "mp3": {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.2},  # LAME's V2
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
}
_BLOCK = 64  # frames that FluidSynth makes at once
_BLOCKS = 1024  # blocks in an array that we yield: 1.5 s
_FORTE = 0.06  # the median peak of 40 MAESTRO pieces, with FluidSynth's own gain of 0.2
_NOTHING = 1e-7  # the noise of FluidSynth's reverb is below it; the softest note, of velocity 1, is 2e-6
_SILENT = 2.5e-4  # -72 dB: a tail below it is cut off
_IN_MEMORY = 64 * 2**20  # bytes
_CHANNELS = 144  # 128 programs and drums, in FluidSynth's multiples of sixteen
_DRUM_CHANNEL = 9
_LEVELS = range(5)  # of FluidSynth's log, from panic to debug


def format_of(path: str | os.PathLike) -> str:
    """Read the format from a file's ending. Raises SettingError."""
    ending = Path(path).suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise SettingError(f"{path}: expected a name that ends in one of {endings}")
    return ending


def check() -> None:
    """Raise MissingDependency if there is no FluidSynth or no soundfile."""
    _fluidsynth()
    _soundfile()


def write(
    notes: Notes,
    file: BinaryIO,
    format: str,
    *,
    sound_font: str | os.PathLike | None = None,
    compression: float | None = None,
) -> None:
    """Write sound to a file that can seek; memory does not grow with the length of the piece.

    Args:
        notes: the sound begins at second 0.
        file: open for writing.
        format: of FORMATS.
        sound_font: a .sf2 or .sf3 file; None: the TimGM6mb of pretty_midi.
        compression: of an MP3, from 0, the best, to 1, the smallest; None: as in FORMATS.

    Raises:
        MissingDependency: as `check`.
        SoundFontError: as `render`.
    """
    check()
    options = FORMATS[format] | ({} if compression is None else {"compression_level": compression})
    with _soundfile().SoundFile(file, "w", RATE, 2, **options) as out:
        for frames in render(notes, sound_font):
            out.write(frames)


def render(notes: Notes, sound_font: str | os.PathLike | None = None) -> Iterator[np.ndarray]:
    """Make samples, float32 [frames, 2], in arrays of a second or two; the same notes give the same samples.

    Together they last until the last note's end and up to TAIL seconds more; without notes, they are TAIL s of silence.

    Raises:
        MissingDependency: there is no FluidSynth.
        SoundFontError: the sound font is missing or damaged, or has no sound for any of the notes.
    """
    font = sound_fonts.default() if sound_font is None else sound_font
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as waiting:
        peak = 0.0
        tail = np.empty((int(TAIL * RATE), 2), "f4")
        with _synth(font, notes) as (synth, channels):
            for frames in _samples(synth, notes, channels):
                waiting.write(frames.data)
                peak = max(peak, float(np.abs(frames).max()))
            _fill(synth, tail)
        tail *= np.linspace(1, 0, len(tail), dtype="f4")[:, None]
        peak = max(peak, float(np.abs(tail).max()))
        if len(notes) and peak < _NOTHING:
            raise SoundFontError(f"{Path(font).name} has no sound for any of the notes on their instruments")
        gain = _gain(peak)
        waiting.seek(0)
        while data := waiting.read(_BLOCKS * _BLOCK * tail.itemsize * 2):
            yield np.frombuffer(data, "f4").reshape(-1, 2) * gain
        audible = np.abs(tail).max(1) * gain > _SILENT
        yield tail[: np.flatnonzero(audible).max(initial=-1) + 1 if len(notes) else None] * gain


def _gain(peak: float) -> np.float32:
    """Compute the gain for a piece of this peak: up to PEAK, or below it by half of the decibels that it lacks."""
    return np.float32(PEAK * min(peak / _FORTE, 1) ** 0.5 / peak if peak >= _NOTHING else 1)


def _samples(synth: Any, notes: Notes, channels: dict[int, int]) -> Iterator[np.ndarray]:
    """Yield the samples until the last note's end, unscaled; then release all keys."""
    strike = _fluidsynth().fluid_synth_noteon
    events = list(_events(notes, channels))
    last = events[-1][0] if events else 0
    done = 0
    for first in range(0, last, _BLOCKS):
        frames = np.empty((min(_BLOCKS, last - first) * _BLOCK, 2), "f4")
        at = 0
        while events[done][0] < min(first + _BLOCKS, last):
            block, *event = events[done]
            until = (block - first) * _BLOCK
            _fill(synth, frames[at:until])
            strike(synth, *event)
            at, done = until, done + 1
        _fill(synth, frames[at:])
        yield frames
    for _, *event in events[done:]:
        strike(synth, *event)


def _events(notes: Notes, channels: dict[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield what the keys do, in order, as (block, channel, pitch, velocity); a velocity of 0 releases the key.

    As in the MIDI that we write, a note ends at the latest where its pitch is struck again.
    """
    on = np.rint(notes["start"] * (RATE / _BLOCK)).astype("i8")
    off = np.maximum(np.rint(notes["end"] * (RATE / _BLOCK)).astype("i8"), on + 1)
    blocks = np.concatenate([off, on])
    order = np.lexsort((np.arange(len(blocks)) >= len(notes), blocks))  # a release comes before a note-on in its block
    keys = [(channels[program], pitch) for program, pitch in notes[["program", "pitch"]].tolist()]
    velocities = notes["velocity"].tolist()
    held: dict[tuple[int, int], int] = {}  # the note that each key plays
    for block, event in zip(blocks[order].tolist(), order.tolist(), strict=True):
        note, strikes = event % len(notes), event >= len(notes)
        key = keys[note]
        if strikes:
            held[key] = note
            yield (block, *key, velocities[note])
        elif held[key] == note:
            yield (block, *key, 0)


def _fill(synth: Any, frames: np.ndarray) -> None:
    """Fill float32 [frames, 2] with the next samples."""
    if len(frames):
        address = frames.ctypes.data
        _write_float()(synth, len(frames), address, 0, 2, address, 1, 2)


@contextlib.contextmanager
def _synth(font: str | os.PathLike, notes: Notes) -> Iterator[tuple[Any, dict[int, int]]]:
    """Open a synthesiser without an audio driver; yield it and the channel of each program of the notes."""
    fluidsynth = _fluidsynth()
    sound_fonts.check(font)
    # without chorus: no instrument uses it, but it would be computed
    synth = fluidsynth.Synth(samplerate=RATE, channels=_CHANNELS, **{"synth.chorus.active": 0})
    try:
        if synth.sfload(str(font)) == fluidsynth.FLUID_FAILED:
            raise SoundFontError(f"{font}: a damaged sound font: FluidSynth cannot load it")
        free = (channel for channel in range(_CHANNELS) if channel != _DRUM_CHANNEL)
        channels = {}
        for program in np.unique(notes["program"]).tolist():
            channels[program] = _DRUM_CHANNEL if program == DRUMS else next(free)
            # where the font has no such program, FluidSynth takes its first one instead
            synth.program_change(channels[program], 0 if program == DRUMS else program)
        yield synth.synth, channels
    finally:
        synth.delete()


@functools.cache
def _fluidsynth() -> Any:
    """Import pyfluidsynth and silence its log. Raises MissingDependency."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where $CI is set, it prints where its library is
            import fluidsynth
    except ModuleNotFoundError as error:
        raise MissingDependency("sound needs pyfluidsynth: `pip install '.[audio]'` brings it") from error
    except (ImportError, OSError) as error:
        raise MissingDependency(
            "sound needs the library FluidSynth: `apt-get install libfluidsynth3` (Debian, Ubuntu) "
            "or `brew install fluid-synth` (macOS) brings it"
        ) from error
    log = fluidsynth.cfunc(
        "fluid_set_log_function", c_void_p, ("level", c_int, 1), ("function", c_void_p, 1), ("data", c_void_p, 1)
    )
    for level in _LEVELS:  # errors that matter are also returned as values, and raised by us
        log(level, None, None)
    return fluidsynth


@functools.cache
def _write_float() -> Any:
    """Bind fluid_synth_write_float, which pyfluidsynth lacks; its 16-bit samples would be clipped."""
    kinds = {"synth": c_void_p, "frames": c_int} | {
        f"{side}_{name}": kind
        for side in ("left", "right")
        for name, kind in (("buffer", c_void_p), ("offset", c_int), ("step", c_int))
    }
    return _fluidsynth().cfunc("fluid_synth_write_float", c_int, *((name, kind, 1) for name, kind in kinds.items()))


def _soundfile() -> Any:
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise MissingDependency("sound files need soundfile: `pip install '.[audio]'` brings it") from error
    except OSError as error:  # some platforms' wheels lack the library
        raise MissingDependency(
            "sound files need the library sndfile: `apt-get install libsndfile1` (Debian, Ubuntu) "
            "or `brew install libsndfile` (macOS) brings it"
        ) from error
    return soundfile
