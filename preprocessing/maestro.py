"""maestro-v*.csv → {path: facts}, and a stable split for music that is in no table. Knows nothing of Beam or MIDI.

The tables of MAESTRO v1, v2 and v3 have the same columns, in any order, and list different files.
"""

import csv
import hashlib
import io
import posixpath
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from music.errors import RecordError
from music.notes import Notes
from music.pieces import SPLITS
from preprocessing import archives

_COLUMNS = ("midi_filename", "canonical_composer", "canonical_title", "year", "split")


class Facts(NamedTuple):
    """A piece's composer, title, year and split; "" and 0 mean unknown."""

    composer: str = ""
    title: str = ""
    year: int = 0
    split: str = ""


def read_tables(tables: Iterable[tuple[str, bytes]]) -> dict[str, Facts]:
    """Read tables, as (id, content); of two rows for one file the one in the later table counts.

    Returns:
        The facts by the id of the MIDI file: its name in the table, below the table's own folder.

    Raises:
        RecordError: a table lacks a column, or is no text.
    """
    facts: dict[str, Facts] = {}
    for id, content in tables:
        folder = posixpath.dirname(id)
        facts.update((posixpath.join(folder, name), row) for name, row in _rows(id, content))
    return facts


def _rows(id: str, content: bytes) -> list[tuple[str, Facts]]:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        missing = set(_COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise RecordError(f"{id} lacks the columns {sorted(missing)}; it has {reader.fieldnames}")
        return [_row(row) for row in reader]
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise RecordError(f"{id} is no table of MAESTRO: {error}") from error


def _row(row: dict[str, str]) -> tuple[str, Facts]:
    name, composer, title, year, split = ((row[column] or "").strip() for column in _COLUMNS)
    return name, Facts(composer, title, int(year or 0), split if split in SPLITS else "")


def complete(facts: Facts, id: str, folder: str, notes: Notes) -> Facts:
    """Fill in the composer and the split where the table does not give them.

    Args:
        facts: from the table, or Facts().
        id: the piece's path below the input; the folder or the archive it is in names the composer.
        folder: the input's own name, for a piece that is in no folder below it.
        notes: the music.
    """
    composer = facts.composer or archives.stem(posixpath.basename(posixpath.dirname(id))) or folder
    split = facts.split or split_of(composition(composer, facts.title, notes))
    return facts._replace(composer=composer, split=split)


def composition(composer: str, title: str, notes: Notes) -> str:
    """Identify the work that a piece performs: by composer and title, or where unknown by the notes."""
    if composer and title:
        return "\n".join(" ".join(words.casefold().split()) for words in (composer, title))
    return content(notes)


def content(notes: Notes) -> str:
    """Compute the SHA-256 of the notes as they are stored, in whole microseconds: equal for identical music."""
    digest = hashlib.sha256()
    for name in ("start", "end"):
        digest.update(np.rint(notes[name] * 1e6).astype("<i8").tobytes())
    for name in ("pitch", "velocity", "program"):
        digest.update(notes[name].astype("<i2").tobytes())
    return digest.hexdigest()


def split_of(composition: str) -> str:
    """Choose train, validation or test, 80 : 10 : 10; the same on every machine, and for all performances of a work."""
    tenth = int.from_bytes(hashlib.sha256(composition.encode()).digest()[:8]) % 10
    return "train" if tenth < 8 else SPLITS[tenth - 7]
