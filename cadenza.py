"""Generate piano music from Python, or by one command. The same as HTTP gives, without a server.

    import cadenza

    model = cadenza.load()                     # the shipped model, a folder, gs://…, or a server: "host:8500"
    piece = model.continue_("seed.mid", notes=200, temperature=0.9, random_seed=7)
    piece.save("mine.mid")
    piece.save("mine.mp3")
    piece.plot("mine.png")

`cadenza generate` does that in a terminal. The other commands are those of the stages: `cadenza train …` is
`python -m trainer train …`.
"""

import argparse
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from music import flags, midi, storage
from music import notes as nt
from music.command_line import fail
from music.errors import MusicError, SettingError
from music.generation import Backend, Card, Chunk, Generator, Settings
from music.midi import Grid
from music.midi.parser import File
from music.notes import Notes

_SERVER = re.compile(r"[^/\s]+:\d+")
_MIDI, _SCORE = (".mid", ".midi"), (".musicxml", ".pdf", ".svg")
_SOUND = (".mp3", ".wav", ".flac", ".ogg")
_MUSIC = ("inspect", "plot", "render", "score")
_TRAINER = ("train", "evaluate", "listen", "sample", "export", "originality")
_COMMANDS = ("generate", *_MUSIC, "preprocess", *_TRAINER, "serve")


@dataclass(frozen=True)
class Piece:
    """A generated piece: the seed, and the new notes behind it on the same clock, in seconds."""

    seed: Notes
    new: Notes
    model: str  # name/version
    ended: str  # "final": it ended by itself; "length": it has as many notes as were asked for
    grid: Grid | None = None  # tempo map, metres, keys and names of the seed's file, which .mid and scores keep

    @property
    def notes(self) -> Notes:
        """Give the seed and the new notes, in the order of their onsets."""
        return nt.sort(np.concatenate([self.seed, self.new]))

    def save(self, path: str | os.PathLike, *, include_seed: bool = True, pedal: bool = False) -> None:
        """Write a file. Its ending decides what it is: .mid, a sound (.mp3 .wav .flac .ogg) or a score (.musicxml
        .pdf .svg).

        Args:
            path: of the file to write.
            include_seed: write the seed's notes, too.
            pedal: write a sustain pedal and shorter keys into .mid.

        Raises:
            SettingError: an unknown ending.
            MissingDependency: what plays or engraves is not installed.
        """
        notes, path = self.notes if include_seed else self.new, os.fspath(path)
        ending = _ending(path)
        if ending in _MIDI:
            before = self.seed if include_seed else None
            storage.write(path, midi.write(self.new, before=before, grid=self.grid, pedal=pedal))
        elif ending in _SCORE:
            from music.notation import beats, engraving
            from music.notation.musicxml import musicxml

            exact = beats.is_on_grid(self.seed, self.grid)
            grid = self.grid if exact else None
            engraving.write(musicxml(notes, grid, title=Path(path).stem, exact=exact), path)
        else:
            from music import audio

            kind = audio.format_of(path)
            with storage.writing(path) as file:
                audio.write(notes, file, kind)

    def plot(self, path: str | os.PathLike) -> None:
        """Draw a piano roll as PNG, the new notes in a colour of their own."""
        from music.plots.piano_roll import piano_roll

        piano_roll({"seed": self.seed, "continuation": self.new} if len(self.seed) else self.new, path)


class Model:
    """A model that generates; made by `load`."""

    def __init__(self, backend: Backend):
        self._generator = Generator(backend)

    @property
    def card(self) -> Card:
        """Describe the model: encoding, sizes, training, measured likelihood."""
        return self._generator.describe()[0]

    def continue_(self, seed: str | os.PathLike | Notes, **settings) -> Piece:
        """Continue a MIDI or MusicXML file, or notes as `read` returns them.

        Args:
            settings: notes (at most, 256), temperature (1.0; 0: always the likeliest), top_p (1.0), min_p (0.0),
                random_seed (the same number gives the same piece); and of a model with controls: style (a composer),
                density (notes a second), loudness (mean velocity), seconds (at which the piece ends, about).

        Raises:
            MidiError: the file is neither MIDI nor MusicXML.
            MissingDependency: it is MusicXML, and music21 is not installed.
            SettingError: a setting is unknown, or outside its range.
            EncodingError: the model cannot express a note of the seed.
            BackendError: the model does not answer.
        """
        file = None if isinstance(seed, np.ndarray) else flags.read_file(os.fspath(seed))
        notes = seed if isinstance(seed, np.ndarray) else _notes(os.fspath(seed), file)
        chunks = list(self.stream(notes, **settings))
        ended = chunks[-1].ended or ""
        new = np.concatenate([chunk.notes for chunk in chunks])
        return Piece(notes, new, chunks[-1].model, ended, midi.grid(file) if file else None)

    def new(self, **settings) -> Piece:
        """Generate a piece from its beginning; settings and errors as for `continue_`."""
        return self.continue_(nt.empty(), **settings)

    def stream(self, seed: Notes, **settings) -> Iterator[Chunk]:
        """Generate the new notes some at a time, as they are drawn; settings and errors as for `continue_`."""
        if unknown := settings.keys() - Settings.__dataclass_fields__:
            expected = ", ".join(Settings.__dataclass_fields__)
            raise SettingError(f"{', '.join(sorted(unknown))}: no such setting; expected {expected}")
        return self._generator.stream(seed, Settings(**settings))


def load(place: str | os.PathLike | None = None, *, name: str = "performance") -> Model:
    """Load a model.

    Args:
        place: an exported model's folder, local or gs://…; a run's folder; or HOST:PORT of a TF Serving. None: the
            model that ships with this package.
        name: what that server calls the model.

    Raises:
        Unavailable: there is no model. A server is called only when the model is used.
        RecordError: the model's files are damaged.
    """
    place = None if place is None else os.fspath(place)
    if place is not None and _SERVER.fullmatch(place) and not storage.exists(place):
        from serving.backends.tfserving import TFServing

        return Model(TFServing(place, name))
    if place is not None and storage.exists(storage.join(place, "card.json")):
        from trainer import use_backend

        use_backend()
        from trainer import run_folder
        from trainer.export import signatures

        return Model(signatures.Live(*run_folder.load(place)))
    from serving.backends.embedded import Embedded

    return Model(Embedded(place))


def read(path: str | os.PathLike) -> Notes:
    """Read the notes of a MIDI or MusicXML file, local or gs://…, with the pedal folded into their durations.

    Warns:
        UserWarning: of each kind of damage in the file, and of what is left out.

    Raises:
        MidiError: it is neither.
        MissingDependency: it is MusicXML, and music21 is not installed.
    """
    path = os.fspath(path)
    return _notes(path, flags.read_file(path))


def _notes(path: str, file: File) -> Notes:
    """Take the notes out of a file that was read, and warn the caller's caller of its damage."""
    notes, damage = midi.read_with_warnings(file)
    for line in damage:
        warnings.warn(f"{path}: {line}", stacklevel=3)
    return notes


def _ending(path: str, *, picture: bool = False) -> str:
    """Return the ending, in small letters, of a file that a piece can be saved as. Raises SettingError."""
    known = (*_MIDI, *_SOUND, *_SCORE, *((".png",) if picture else ()))
    ending = Path(path).suffix.lower()
    if ending not in known:
        raise SettingError(f"{path}: expected a name that ends in one of {', '.join(known)}")
    return ending


def _generate(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        "cadenza generate", description="Continue a MIDI or MusicXML file, or begin a new piece."
    )
    parser.add_argument(
        "seed", nargs="?", metavar="SEED", help="MIDI or MusicXML file to continue (default: begin a new piece)"
    )
    flags.add_drums(parser)
    parser.add_argument(
        "--seed-start", type=flags.seconds, default=0.0, metavar="S",
        help="continue only what begins at S seconds of the seed or later (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--seed-end", type=flags.seconds, default=math.inf, metavar="S",
        help="continue only the seed before S seconds (default: all of it)",
    )  # fmt: skip
    parser.add_argument(
        "--seed-notes", type=flags.positive, metavar="N",
        help="continue only the last N notes of the seed, or of that part (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--output", nargs="+", required=True, metavar="FILE",
        help="one file or several; its ending is the format: .mid; .mp3, .wav, .flac, .ogg; .musicxml, .pdf, .svg; "
        ".png is a piano roll",
    )  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--model", metavar="DIR", help="folder of an exported model (default: the shipped one)")
    where.add_argument("--run", metavar="DIR", help="folder of a training run")
    where.add_argument("--server", metavar="HOST:PORT", help="gRPC address of a TF Serving")
    parser.add_argument(
        "--model-name", default="performance", metavar="NAME",
        help="the model's name on --server (default: %(default)s)",
    )  # fmt: skip
    flags.add_settings(parser)
    parser.add_argument(
        "--pedal", action="store_true", help="write a sustain pedal and shorter keys into .mid (default: no pedal)"
    )
    args = parser.parse_args(argv)
    if args.server is not None and not _SERVER.fullmatch(args.server):
        parser.error(f"--server: expected HOST:PORT, got {args.server!r}")
    place = next((place for place in (args.model, args.run, args.server) if place is not None), None)
    if not args.seed and (args.seed_start or args.seed_end != math.inf or args.seed_notes):
        parser.error("--seed-start, --seed-end, --seed-notes: expected SEED as well, to take a part of")
    if args.seed_end <= args.seed_start:
        parser.error(f"--seed-end: expected more than --seed-start, {args.seed_start:g}, got {args.seed_end:g}")
    if place == "":
        parser.error("--model, --run, --server: expected a name, got an empty one")
    endings = {path: _ending(path, picture=True) for path in args.output}  # before the work
    model = load(place, name=args.model_name)
    seed, grid = nt.empty(), None
    if args.seed:
        file = flags.read_file(args.seed)
        grid = midi.grid(file)
        seed = flags.read_part(args.seed, args.seed_start, args.seed_end, file=file, drums=args.drums)
        seed = seed if args.seed_notes is None else seed[-args.seed_notes :]
    piece = replace(model.continue_(seed, **asdict(flags.settings(args))), grid=grid)
    for path, ending in endings.items():
        if ending == ".png":
            piece.plot(path)
        else:
            piece.save(path, pedal=args.pedal)
        print(path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 with a line on stderr for what the user can mend."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(f"{__doc__}\nCommands: {', '.join(_COMMANDS)}. `cadenza COMMAND --help` describes one.")
        return 0
    if command not in _COMMANDS:
        return fail("cadenza", f"no command {command!r}; expected one of {', '.join(_COMMANDS)}")
    try:
        return _run(command, rest) or 0
    except ModuleNotFoundError as error:
        return fail(f"cadenza {command}", f"needs {error.name}; setup.py says which extra brings it")


def _run(command: str, rest: list[str]) -> int | None:
    if command in _MUSIC:
        from music.__main__ import run as music

        return music([command, *rest])
    if command in _TRAINER:
        from trainer.__main__ import run as trainer

        return trainer([command, *rest])
    if command == "preprocess":
        from preprocessing.__main__ import run as preprocess

        return preprocess(rest)
    if command == "serve":
        from serving.__main__ import run as serve

        return serve(rest)
    try:
        return _generate(rest)
    except (MusicError, OSError) as error:
        return fail("cadenza generate", error)


if __name__ == "__main__":
    sys.exit(main())
