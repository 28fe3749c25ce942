"""Facts about our API that no schema can express, for schemathesis: which bytes are MIDI, and what has no sound."""

import sys
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))

from music import midi
from music import notes as nt
from serving.api.requests import RAW_TYPES

_ONSETS = st.lists(st.tuples(st.integers(0, 100), st.integers(21, 108), st.integers(1, 127)), min_size=1, max_size=8)
MIDI = _ONSETS.map(lambda rows: midi.write(nt.from_tuples([(at / 8, at / 8 + 0.1, *rest) for at, *rest in rows])))

for kind in RAW_TYPES:
    schemathesis.openapi.media_type(kind, MIDI)
schemathesis.openapi.format("binary", MIDI)


@schemathesis.hook
def filter_query(context, query) -> bool:
    """Keep queries without a program for sound, and without empty values.

    A program may lack notes as high as those of a piano, and the API then answers 422, as it should. Empty values are
    allowed (`allowEmptyValue`), but schemathesis takes them for errors.
    """
    query = query or {}
    return "" not in query.values() and not (query.get("format") in ("wav", "mp3") and "program" in query)


@schemathesis.hook
def before_call(context, case, kwargs) -> None:
    """Leave out of a valid request what depends on the seed or the model.

    None of a random seed's notes may be in the part that is chosen. A model without controls refuses them.
    """
    if case.meta and case.meta.generation.mode.is_positive:
        for name in ("seed_start", "seed_end", "seed_notes", "style", "density", "loudness", "seconds"):
            (case.query or {}).pop(name, None)
