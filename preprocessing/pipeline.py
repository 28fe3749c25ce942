"""The three transforms of preprocessing: MIDI → Pieces → shards, and their statistics.

Knows nothing of flags and runners, nor where bytes come from. Every file written here has the same bytes on every
runner and in every run: a piece's shard follows from its id, a shard is sorted by id, sums are sums of integers.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsDict, TaggedOutput

from music import midi, pieces, storage, wire
from music import notes as nt
from music.analysis import statistics
from music.encodings import chords
from music.errors import MidiError, MissingDependency
from music.pieces import SPLITS, Piece
from music.storage import checksums
from preprocessing import maestro
from preprocessing.maestro import Facts
from preprocessing.output import shard_name
from preprocessing.sources import FAILED, ReadFiles, Source, attempt

DAMAGED = "damaged"  # the output that holds (id, damage)


class Tally:
    """Count the files that workers in this process have read: for the progress line only, never for results."""

    files = 0


class ReadPieces(beam.PTransform):
    """Read every MIDI and MusicXML file of a source.

    Args:
        source: the files.
        facts: what the tables say, by id.
        split: put every piece into this split, whatever a table says; "": each into its own.
        drums: read channel 10 as drums, as in `midi.read`.

    Returns:
        Three PCollections: Piece; (id, reason) of the files that are no music; (id, damage) of those that are damaged
        but were read, a line for each kind of damage, and of what was passed over, with the reason.
    """

    def __init__(self, source: Source, facts: dict[str, Facts], split: str = "", drums: bool = True):
        super().__init__()
        self.source = source
        self.facts = facts
        self.split = split
        self.drums = drums

    def expand(self, pipeline):
        facts = pipeline | "Facts" >> beam.Create(sorted(self.facts.items()), reshuffle=False)
        read, not_read, passed_over = pipeline | "Read" >> ReadFiles(self.source)
        files = read | "Files" >> beam.Filter(_is_good)
        parsed = files | "Parse" >> beam.FlatMap(
            _parse, self.source.folder, AsDict(facts), self.split, self.drums
        ).with_outputs(FAILED, DAMAGED, main="pieces")
        pieces = parsed.pieces | "Pieces" >> beam.Filter(_is_good)
        failures = (not_read | "NotRead" >> beam.Filter(_is_failure), parsed[FAILED] | beam.Filter(_is_failure))
        damages = (
            parsed[DAMAGED] | "Damages" >> beam.Filter(_is_damage),
            passed_over | "PassedOver" >> beam.Filter(_is_damage),
        )
        return pieces, failures | "Errors" >> beam.Flatten(), damages | "Warnings" >> beam.Flatten()


def _is_damage(element: Any) -> bool:
    """Tell whether this is (id, damage); for the same reason as `_is_failure`."""
    return type(element) is tuple and isinstance(element[1], list)


def _is_failure(element: Any) -> bool:
    """Tell whether this is (id, reason). The tag says so, but Dask's runner puts all elements into every output."""
    return type(element) is tuple and isinstance(element[1], str)


def _is_good(element: Any) -> bool:
    return not (_is_failure(element) or _is_damage(element))


def _parse(file: tuple[str, bytes], folder: str, facts: dict[str, Facts], split: str, drums: bool) -> Iterator:
    id, data = file
    damage: list[str] = []
    row = facts.get(id, Facts())
    row = row._replace(split=split or row.split)
    yield from attempt(id, lambda: _piece(id, data, folder, row, drums, damage))
    if damage:
        yield TaggedOutput(DAMAGED, (id, damage))
    Tally.files += 1


def _piece(id: str, data: bytes, folder: str, facts: Facts, drums: bool, damage: list[str]) -> Piece:
    """Read a file's piece; append a line to `damage` for each kind of damage in it."""
    try:
        notes, warnings = midi.read_with_warnings(midi.unpacked(id, data), drums=drums)
    except MissingDependency as error:  # MusicXML; the MIDI files of a source are worth going on for
        raise MidiError(str(error)) from error
    if not len(notes):
        raise midi.no_notes(warnings)
    damage += warnings
    if stray := nt.beyond_piano(notes):
        damage.append(f"{stray:,} notes are beyond a piano's keys (A0 to C8); models of these keys do not read them")
    return Piece(notes, id, **maestro.complete(facts, id, folder, notes)._asdict())


class Duplicates(beam.PTransform):
    """Find the pieces of the same music, as (id, id of the piece that stays): the smallest id stays.

    Only hashes and ids are grouped, no music.
    """

    def expand(self, pieces):
        return (
            pieces
            | beam.Map(lambda piece: (maestro.content(piece.notes), piece.id))
            | beam.GroupByKey()
            | beam.FlatMap(_all_but_the_first)
        )


def _all_but_the_first(group: tuple[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    first, *others = sorted(set(group[1]))
    return ((other, first) for other in others)


class WriteShards(beam.PTransform):
    """Write Pieces without the duplicates as TFRecord shards; a shard without a piece is not written.

    A shard is sorted in memory, so choose enough of them (MAESTRO in 16: 5 MB each).

    Args:
        folder: the dataset's folder.
        shards: shards of each split.
        duplicates: PCollection of (id, id that stays).

    Returns:
        PCollection of the names of the files.
    """

    def __init__(self, folder: str, shards: int, duplicates: beam.PCollection):
        super().__init__()
        self.folder = folder
        self.shards = shards
        self.duplicates = duplicates

    def expand(self, pieces):
        return (
            pieces
            | beam.Map(_record, self.shards)
            | beam.GroupByKey()
            | beam.FlatMap(_write_shard, self.folder, self.shards, AsDict(self.duplicates))
        )


def _record(piece: Piece, shards: int) -> tuple[tuple[str, int], tuple[str, bytes]]:
    return (piece.split, shard_of(piece.id, shards)), (piece.id, pieces.to_example(piece))


def shard_of(id: str, shards: int) -> int:
    """Choose a piece's shard by its id: 0 … shards - 1."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8]) % shards


def _write_shard(group, folder: str, shards: int, duplicates: dict[str, str]) -> Iterator[str]:
    (split, number), records = group
    unique = sorted(record for record in records if record[0] not in duplicates)
    if unique:
        name = shard_name(split, number, shards)
        storage.write(storage.join(folder, name), wire.write_records(example for _, example in unique))
        yield name


class Statistics(beam.PTransform):
    """Count what is in Pieces without the duplicates, as one dict: see `describe`.

    Args:
        duplicates: PCollection of (id, id that stays).
    """

    def __init__(self, duplicates: beam.PCollection):
        super().__init__()
        self.duplicates = duplicates

    def expand(self, pieces):
        return (
            pieces
            | beam.Map(lambda piece: (piece.id, counts(piece)))
            | beam.Filter(lambda counted, duplicates: counted[0] not in duplicates, AsDict(self.duplicates))
            | beam.Values()
            | beam.CombineGlobally(_total)
            | beam.Map(describe)
        )


class Counts(NamedTuple):
    """Counts of some pieces. All are integers, so the order of summing does not matter."""

    facts: dict[tuple[str, str], int]  # (kind, name) → how many
    bins: np.ndarray  # the bins of _TABLE that are not empty: in one piece a few hundred, so few bytes are sent
    numbers: np.ndarray  # how many are in each of these bins


_SIZES = {name: len(edges) - 1 for name, edges in statistics.EDGES.items()} | {"chords": chords.CODES}
_TABLE = sum(_SIZES.values())  # bins of all histograms, one after the other


def counts(piece: Piece) -> Counts:
    """Count one piece."""
    notes = piece.notes
    facts = {
        ("composers", piece.composer or "unknown"): 1,
        ("pieces", piece.split): 1,
        ("notes", piece.split): len(notes),
        ("microseconds", piece.split): round(nt.length(notes) * 1e6),
    }
    table = np.concatenate([*statistics.histograms(notes).values(), statistics.chord_codes(notes)])
    bins = np.flatnonzero(table)
    return Counts(facts, bins.astype("i2"), table[bins].astype("i4"))


def _total(parts: Iterable[Counts]) -> Counts:
    facts: Counter = Counter()
    table = np.zeros(_TABLE, "i8")
    for part in parts:
        facts.update(part.facts)
        table[part.bins] += part.numbers
    return Counts(dict(facts), np.arange(_TABLE), table)


def describe(total: Counts) -> dict:
    """Make the content of `stats.json`: pieces, notes and seconds of each split, pieces of each composer, histograms
    with their edges, and how often each chord symbol occurs."""
    facts = Counter(total.facts)
    table = np.zeros(_TABLE, "i8")
    table[total.bins] = total.numbers
    parts = np.split(table, np.cumsum(list(_SIZES.values()))[:-1])
    histograms = {name: part.tolist() for name, part in zip(_SIZES, parts, strict=True)}
    return {
        "splits": {
            split: {
                "pieces": facts["pieces", split],
                "notes": facts["notes", split],
                "seconds": facts["microseconds", split] / 1e6,
            }
            for split in SPLITS
        },
        "composers": {name: facts["composers", name] for name in sorted(n for kind, n in facts if kind == "composers")},
        **{name: {"edges": edges, "counts": histograms[name]} for name, edges in statistics.EDGES.items()},
        "chords": statistics.by_symbol(dict(enumerate(histograms["chords"]))),
    }


class WriteJson(beam.PTransform):
    """Write the only element, a dict, as JSON with a checksum, a line for each key; return the path's PCollection."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def expand(self, elements):
        return elements | beam.Map(_write_json, self.path)


def _write_json(element: dict, path: str) -> str:
    facts = {**element, checksums.KEY: checksums.digest(element)}
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items())
    storage.write(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return path


class WriteLines(beam.PTransform):
    """Write tuples as sorted lines of JSON, none as an empty file; return a PCollection of the file's path."""

    def __init__(self, path: str, names: tuple[str, ...]):
        super().__init__()
        self.path = path
        self.names = names

    def expand(self, tuples):
        return tuples | beam.combiners.ToList() | beam.Map(_write_lines, self.path, self.names)


def _write_lines(tuples: list[tuple], path: str, names: tuple[str, ...]) -> str:
    lines = [json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False) + "\n" for values in sorted(tuples)]
    storage.write(path, "".join(lines).encode())
    return path
