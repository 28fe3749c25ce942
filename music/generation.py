"""A seed's Notes → a stream of Notes, through a Backend. Knows nothing of HTTP, gRPC, TensorFlow or MIDI.

The model's state is opaque: whatever tensors `state_*` a reply holds go into the next call. All randomness is drawn
here, from one numpy Generator a piece, so a piece does not depend on how its notes were cut into calls.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from music import encodings
from music import notes as nt
from music.analysis.memorization import Index, Run, longest_run
from music.encodings import Encoding
from music.encodings.columns import END, Rows
from music.errors import BackendError, DeadlineExceeded, EncodingError, RecordError, SettingError, Unavailable
from music.notes import Notes
from music.storage import checksums

CARD_SCHEMA = 1
PRIME_BLOCK = 64  # rows in one `prime` call: constant, so that calls of all listeners can be merged
CHUNK = 32  # rows in one `generate` call, likewise
_MOST_STATE = 100_000_000  # numbers in one state; a cache of 2,048 notes, 12 layers and 1,024 units has half of them
_DETAIL = 2  # the first notes come one `step` at a time, for a quick first one
_TRIES = 2  # of one version: the second one after describing and priming again
_NEVER = float("inf")
_MOVES = 8  # how many versions may go, or servers break, without a note between; a roll forward and back is two


class Reply(NamedTuple):
    outputs: dict[str, np.ndarray]
    version: int  # of the model that answered


class Backend(Protocol):
    """Anything that answers a signature of a SavedModel: in this process, over gRPC, or scripted in a test."""

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Call one signature; `timeout` in seconds. Raises BackendError.

        `version` None leaves the choice to the backend: the latest one, or the one that a label stands at just now.
        """
        ...


@dataclass(frozen=True)
class Settings:
    """How to draw: `notes` at most, temperature 0 = the likeliest; top_p in (0, 1]; min_p in [0, 1).

    Raises:
        SettingError: one of them is outside its range.
    """

    notes: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    random_seed: int | None = None

    def __post_init__(self):
        for name, expected, fits in (
            ("notes", "1 or more", self.notes >= 1),
            ("temperature", "0 or more", 0 <= self.temperature < float("inf")),
            ("top_p", "more than 0, at most 1", 0 < self.top_p <= 1),
            ("min_p", "0 or more, less than 1", 0 <= self.min_p < 1),
            ("random_seed", "0 to 2**32 - 1", self.random_seed is None or 0 <= self.random_seed < 2**32),
        ):
            if not fits:
                raise SettingError(f"{name}: expected {expected}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Card:
    """All that one must know to use a model; `facts` is the JSON as written by the trainer's export."""

    facts: dict
    encoding: Encoding

    @classmethod
    def parse(cls, text: str | bytes, name: str = "a model's card") -> "Card":
        """Raises RecordError for a card that is damaged or newer than this code; unknown keys are ignored."""
        try:
            facts = checksums.unseal(text, name)
            if facts["schema"] > CARD_SCHEMA:
                raise RecordError(f"{name} has schema {facts['schema']}; this version reads up to {CARD_SCHEMA}")
            if not isinstance(facts["recipe"], str):
                raise TypeError(f"recipe: expected a name, got {facts['recipe']!r:.50}")
            for state, spec in facts["state"].items():
                _check_state(state, spec["shape"], spec["dtype"])
            return cls(facts, encodings.from_config(facts["encoding"]))
        except (ValueError, KeyError, TypeError, AttributeError, EncodingError) as error:
            raise RecordError(f"{name} is damaged: {error!r}") from error

    @property
    def name(self) -> str:
        return self.facts["recipe"]

    def empty_state(self, batch: int = 1) -> dict[str, np.ndarray]:
        """The state before the first row: zeros (PAD) of the shapes and types that the card lists."""
        return {
            f"state_{name}": np.zeros((batch, *spec["shape"]), spec["dtype"])
            for name, spec in self.facts["state"].items()
        }


def _check_state(name: str, shape: list, dtype: str) -> None:
    """Raises ValueError or TypeError for a state that no model has: it would be made before the first note."""
    if dtype not in ("int32", "float32"):
        raise ValueError(f"state {name!r:.50}: expected int32 or float32, got {dtype!r:.50}")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or math.prod(shape) > _MOST_STATE:
        raise ValueError(f"state {name!r:.50}: expected a shape of at most {_MOST_STATE:,} numbers, got {shape!r:.50}")


class Chunk(NamedTuple):
    """Some notes of a stream."""

    notes: Notes  # on the seed's clock
    model: str  # "name/version" that made them
    ended: str | None  # in the last chunk: "final" (the piece ended by itself) or "length"; else None
    longest_run: Run | None = None  # in the last chunk, where `compared` has looked for it


@dataclass
class _Voice:
    """One piece in the making: which model, its state, and its clock."""

    card: Card
    version: int
    state: dict[str, np.ndarray]
    clock: float  # from where the next row counts its time
    heard: Rows  # all rows so far, int32 [n, F]

    @property
    def model(self) -> str:
        return f"{self.card.name}/{self.version}"


class _Patience:
    """How long to try: a version that fails is tried twice running, but another one may take its place."""

    def __init__(self):
        self._last: int | None = -1  # no version is below 0
        self._failures = self._moves = 0

    def spend(self, version: int | None, error: Unavailable) -> None:
        """`version` failed (None: there was none to be found); raises the error where that is enough."""
        self._failures = self._failures + 1 if version == self._last else 1
        self._moves += 1
        self._last = version
        if self._failures == _TRIES or self._moves == _MOVES:
            raise error


def compared(chunks: Iterable[Chunk], index: Index) -> Iterator[Chunk]:
    """The same chunks, the last one with the longest run of all their notes that a training set has, too."""
    made = []
    for chunk in chunks:
        made.append(chunk.notes)
        yield chunk if chunk.ended is None else chunk._replace(longest_run=longest_run(np.concatenate(made), index))


class Generator:
    """Plays one Backend.

    Args:
        backend: what answers.
        chunk: notes per `generate` call, 1 to CHUNK; 1 means strictly one `step` a note. The piece is the same.
        timeout: seconds for each call; None waits for ever.
        piece_timeout: seconds for each piece, its listener's pauses included; None: as long as it takes.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        chunk: int = CHUNK,
        timeout: float | None = None,
        piece_timeout: float | None = None,
    ):
        if not 1 <= chunk <= CHUNK:
            raise ValueError(f"chunk: expected 1 to {CHUNK}, got {chunk}")
        self._backend = backend
        self._chunk = chunk
        self._timeout = _NEVER if timeout is None else timeout
        self._piece_timeout = _NEVER if piece_timeout is None else piece_timeout
        self._cards: dict[bytes, Card] = {}

    def describe(self, until: float = _NEVER) -> tuple[Card, int]:
        """The card and the version of the model that new pieces are made with. Raises BackendError."""
        reply = self._call("describe", {"batch": np.zeros(1, "i4")}, until)
        text = _output(reply, "card", (1,))[0]  # by its text: a restarted server may have another model of that number
        card = self._cards.get(text)
        if card is None:
            card = self._cards[text] = Card.parse(text)
        return card, reply.version

    def stream(self, seed: Notes, settings: Settings) -> Iterator[Chunk]:
        """Continue `seed` (empty: a new piece from its beginning), chunk by chunk.

        Where a call fails because the server or the model's version went away, the model is described again, the
        notes so far are encoded anew, and the stream goes on: nothing is lost. What a new version cannot express of
        the notes so far, it does not hear.

        Raises:
            EncodingError: the model cannot express the seed.
            BackendError: no model, no time (for a call, or for the piece), or too many at once.
        """
        until = time.monotonic() + self._piece_timeout
        rng = np.random.default_rng(settings.random_seed)
        began = float(seed["start"].min()) if len(seed) else 0.0
        voice = self._prime(seed, began, until)
        made, left, ended = seed, settings.notes, None
        while ended is None:
            count = 1 if settings.notes - left < _DETAIL or self._chunk == 1 else min(self._chunk, left)
            noise = rng.random((count, len(voice.card.encoding.names)), "f4")
            patience = _Patience()
            while True:
                try:
                    rows = self._advance(voice, noise, settings, until)
                    break
                except Unavailable as error:
                    patience.spend(voice.version, error)
                voice = self._prime(made, began, until, strict=len(made) == len(seed), before=voice)
                if len(voice.card.encoding.names) != noise.shape[1]:  # the new version has another encoding
                    noise = rng.random((count, len(voice.card.encoding.names)), "f4")
            final = rows[:, 0] == END
            rows = rows[~final]
            voice.heard = np.concatenate([voice.heard, rows])
            notes = voice.card.encoding.decode(rows, after=voice.clock)[:left]  # a row may be several notes
            voice.clock = voice.card.encoding.clock(notes, voice.clock)
            made = np.concatenate([made, notes])
            left -= len(notes)
            ended = "final" if final.any() else "length" if left <= 0 else None
            yield Chunk(notes, voice.model, ended)

    def _prime(
        self, notes: Notes, began: float, until: float, *, strict: bool = True, before: _Voice | None = None
    ) -> _Voice:
        """Describe the model and let it hear `notes` of a piece that began at the second `began`.

        Args:
            strict: refuse notes that it cannot express; else they are left out.
            before: who has played so far. Where the encoding is the same, the very rows are heard again: notes encoded
                anew may be a class beside, and the piece would go on as another one.
        """
        patience = _Patience()
        while True:
            version = None
            try:
                card, version = self.describe(until)
                if before and before.card.encoding.config() == card.encoding.config():
                    rows, clock = before.heard, before.clock
                else:
                    heard, clock = _heard(card.encoding, nt.sort(notes), began, strict)
                    rows = card.encoding.encode(heard, begin=True, end=False, after=began)
                state = card.empty_state()
                for at in range(0, len(rows), PRIME_BLOCK):
                    block, length = _padded(rows[at : at + PRIME_BLOCK], PRIME_BLOCK)
                    reply = self._call("prime", {"rows": block, "length": length, **state}, until, version)
                    state = _state(reply, state)
                return _Voice(card, version, state, clock, rows)
            except Unavailable as error:
                patience.spend(version, error)

    def _advance(self, voice: _Voice, noise: np.ndarray, settings: Settings, until: float) -> Rows:
        """The next len(noise) rows, int32 [n, F]; moves the voice's state on."""
        how = {name: np.full(1, getattr(settings, name), "f4") for name in ("temperature", "top_p", "min_p")}
        if len(noise) == 1:
            reply = self._call("step", {"noise": noise, **how, **voice.state}, until, voice.version)
            rows = _output(reply, "row", noise.shape)
        else:
            block, count = _padded(noise, CHUNK)
            given = {"noise": block, "count": count, **how, **voice.state}
            reply = self._call("generate", given, until, voice.version)
            rows = _output(reply, "rows", block.shape)[0, : len(noise)]
        sizes = voice.card.encoding.sizes
        if rows.dtype.kind != "i":
            raise BackendError(f"the model's reply: expected classes as whole numbers, got {rows.dtype}")
        if (rows < END).any() or (rows >= sizes).any():
            raise BackendError(f"the model's reply: expected classes {END} to below {sizes}, got {rows.tolist()}")
        voice.state = _state(reply, voice.state)
        return rows

    def _call(
        self, signature: str, inputs: Mapping[str, np.ndarray], until: float, version: int | None = None
    ) -> Reply:
        left = until - time.monotonic()
        late = DeadlineExceeded(f"the piece was not finished within {self._piece_timeout:g} seconds")
        if left <= 0:
            raise late
        timeout = min(left, self._timeout)
        try:
            reply = self._backend.call(
                signature, inputs, version=version, timeout=None if timeout == _NEVER else timeout
            )
            if version not in (None, reply.version):  # another model's state would be music, but not this piece's
                raise BackendError(f"the model's reply: asked version {version}, version {reply.version} answered")
            return reply
        except DeadlineExceeded as error:
            if left < self._timeout:
                raise late from error
            raise


def _heard(encoding: Encoding, notes: Notes, began: float, strict: bool) -> tuple[Notes, float]:
    """What of the notes the encoding can express, and from where the next row counts its time.

    Raises:
        EncodingError: it is strict, and there are notes that it cannot express; or nothing is left.
    """
    try:
        heard = encoding.heard(notes)
        return heard, encoding.clock(heard, began)
    except EncodingError:
        if strict:
            raise
    low, high = encoding.pitches
    heard = encoding.heard(notes[(low <= notes["pitch"]) & (notes["pitch"] <= high)])
    return heard, max(encoding.clock(heard, began), float(notes["start"][-1]))  # time went on with what is left out


def _padded(block: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, F] → [1, size, F] with zeros behind, and the length [1]."""
    padded = np.zeros((1, size, block.shape[1]), block.dtype)
    padded[0, : len(block)] = block
    return padded, np.array([len(block)], "i4")


def _output(reply: Reply, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor of the reply, checked to be there and of the shape that we rely on."""
    if name not in reply.outputs:
        raise BackendError(f"the model's reply lacks {name!r}; it has {sorted(reply.outputs)}")
    if reply.outputs[name].shape != shape:
        raise BackendError(f"the model's reply: expected {name} of shape {shape}, got {reply.outputs[name].shape}")
    return reply.outputs[name]


def _state(reply: Reply, before: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reply's state, checked to be of the kind that was sent, and of numbers."""
    state = {name: _output(reply, name, array.shape) for name, array in before.items()}
    for name, array in state.items():
        if array.dtype != before[name].dtype:
            raise BackendError(f"the model's reply: expected {name} of {before[name].dtype}, got {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BackendError(f"the model's reply: expected numbers in {name}, got some that are none")
    return state
