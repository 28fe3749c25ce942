"""Any bytes as a model's card, or as dataset.json: what can be used without another look, or a RecordError."""

import atexit
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from music.errors import EncodingError, RecordError
from music.generation import Card
from music.notes import from_tuples
from music.pieces import SPLITS, Dataset
from tests.support.fakes import CARD
from trainer import recipe

_FOLDER = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_NOTES = from_tuples([(0, 1, 60), (0.5, 2, 64, 99), (0.5, 3, 67, 9)])
_SHARD = {
    "path": "test-00000-of-00001.tfrecord",
    "split": "test",
    "records": 2,
    "notes": 9,
    "bytes": 300,
    "crc32c": "0a",
}
_DATASET = {"schema": 1, "source": "x", "digest": "00", "pieces": dict.fromkeys(SPLITS, 2), "shards": [_SHARD]}
SEEDS = [b"\0" + json.dumps(CARD).encode(), b"\1" + json.dumps(_DATASET).encode()] + [
    b"\0" + json.dumps({**CARD, **recipe.to_card(recipe.load(name))}).encode()
    for name in ("three_heads", "performance")
]
_PITCH = {"name": "pitch", "low": 21, "high": 108, "size": 88}


def _with(**facts: object) -> bytes:
    return b"\0" + json.dumps(CARD | facts).encode()


def _columns(**config: object) -> bytes:
    return _with(encoding={"kind": "note_rows", "columns": [_PITCH, {"name": "step", "low": 0, "high": 9, **config}]})


REGRESSIONS = [  # what was made of each is in docs/reliability.md
    _with(state={"row": {"shape": [4], "dtype": "float27"}}),
    _with(state={"row": {"shape": [10**12], "dtype": "int32"}}),
    _with(state=[]),
    _with(recipe=7),
    _columns(size=10**12),
    _columns(size=5, high=float("nan")),
    _columns(size=5, high=1e300, spacing="time"),
    _columns(size=5, exact=-1.0, spacing="time"),
    _columns(size=150, exact=0.0, spacing="time"),
    _columns(size=5, spacing="time", low=2.0),
    *(
        b"\1" + json.dumps(_DATASET | {"shards": [_SHARD | {"path": path}]}).encode()
        for path in ("../x", "/x", "\0", 7)
    ),
]


def one(data: bytes) -> None:
    how, data = data[:1], data[1:]
    try:
        (_dataset if how == b"\1" else _card)(data)
    except RecordError as error:
        assert str(error) and "\n" not in str(error)


def _card(data: bytes) -> None:
    card = Card.parse(data)
    assert isinstance(card.name, str)
    assert all(isinstance(array, np.ndarray) for array in card.empty_state().values())
    try:
        card.encoding.decode(card.encoding.encode(_NOTES, begin=True, end=True))
    except EncodingError:
        return


def _dataset(data: bytes) -> None:
    (_FOLDER / "dataset.json").write_bytes(data)
    dataset = Dataset.open(str(_FOLDER))
    for shard in dataset.facts["shards"]:  # whatever it says, nothing outside is opened
        assert Path(os.path.normpath(_FOLDER / shard["path"])).is_relative_to(_FOLDER)
        assert ".." not in shard["path"].replace("\\", "/").split("/")
    for split in SPLITS:
        list(dataset.pieces(split))
