"""Any bytes as a TFRecord file, as one record of it, and as a shard that a dataset lists: Pieces, or a RecordError."""

import io

from music import pieces, wire
from music.errors import RecordError
from music.notes import from_tuples
from music.pieces import Piece
from tests.robustness.fuzz.midi import sound

_PIECE = pieces.to_example(Piece(from_tuples([(0, 1, 60), (0.5, 2, 64, 99)]), "a/b.mid", "Bach", "Air", 1730, "test"))
_EMPTY = pieces.to_example(Piece(from_tuples([]), "c.mid"))
SEEDS = [
    b"\0" + _PIECE,
    b"\0" + _EMPTY,
    b"\1" + _PIECE,
    b"\2" + wire.write_records([_PIECE, _EMPTY]),
    b"\2" + wire.frame(b""),
]
REGRESSIONS: list[bytes] = []


def one(data: bytes) -> None:
    how, data = data[:1], data[1:]
    try:
        if how == b"\0":
            records = [data]
        elif how == b"\1":
            records = list(wire.read_records(io.BytesIO(wire.frame(data))))
            assert records == [data]
        else:
            records = list(wire.read_records(io.BytesIO(data), "fuzz"))
            assert wire.write_records(records) == data
        decoded = [pieces.from_example(record) for record in records]
    except RecordError as error:
        assert str(error)
        return
    for piece in decoded:
        assert isinstance(piece.id, str) and isinstance(piece.year, int)
        assert len(piece.notes) == 0 or piece.notes.dtype.names
        if sound(piece.notes) and abs(piece.notes["end"]).max(initial=0) < 1e9:
            again = pieces.from_example(pieces.to_example(piece))
            assert again.notes["pitch"].tolist() == piece.notes["pitch"].tolist() and again.id == piece.id
