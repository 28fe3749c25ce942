"""A seed's Notes → a stream of Notes, through a Backend. Knows nothing of HTTP, gRPC, TensorFlow or MIDI.

The model's state is opaque: the tensors `state_*` of a reply go into the next call as they are. All random numbers are
drawn here, from one numpy Generator a piece. So a piece does not depend on how its notes were cut into calls.

`read`, `prime` and `draw` call a model for B pieces side by side, as one batch; F is the number of columns.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from music import controls, encodings
from music import notes as nt
from music.analysis.memorization import Index, Run, longest_run
from music.controls import Controls
from music.encodings import Encoding
from music.encodings.columns import END, Rows
from music.errors import BackendError, DeadlineExceeded, EncodingError, RecordError, SettingError, Unavailable
from music.notes import Notes
from music.storage import checksums

CARD_SCHEMA = 1
PRIME_BLOCK = 64  # rows in one `prime` call: constant, so that the calls of several clients can be batched
NEW_NOTES, MOST_NEW_NOTES = 256, 4096  # new notes of a piece: where nothing is said, and where its length is asked for
CHUNK = 32  # rows in one `generate` call: constant for the same reason
_MOST_STATE = 100_000_000  # numbers in one state; a cache of 2,048 notes, 12 layers and 1,024 units has half of them
_FIRST_STEPS = 2  # so many notes come one `step` at a time, so that the first one comes soon
_TRIES = 2  # of one version, one after the other: the second one after describing and priming again
_FAILURES = 8  # of all versions together, with no note in between; a roll forward and back is two
_NEVER = float("inf")
_ASKED = ("style", "density", "loudness", "seconds")  # settings, in the order of controls.NAMES
MOST_SECONDS = 3600  # of a piece whose length is asked for
_DRAWING = ("temperature", "top_p", "min_p")  # the settings that a call takes


class Reply(NamedTuple):
    """What a signature of the model answered."""

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

        `version` None leaves the choice to the backend: the latest version, or the one that a label points at now.
        """
        ...


Call = Callable[[str, Mapping[str, np.ndarray]], Reply]  # a signature and its inputs → the reply, as Backend.call does
State = Mapping[str, np.ndarray]  # the tensors `state_*`, shapes [B, …]


@dataclass(frozen=True)
class Settings:
    """How to draw a continuation.

    Args:
        notes: the most notes that are drawn, 1 or more; None: 256, or 4,096 where `seconds` asks for a length.
        temperature: 0 or more; 0 draws the likeliest value.
        top_p: in (0, 1]; 1 leaves nothing out.
        min_p: in [0, 1); 0 leaves nothing out.
        random_seed: 0 to 2**32 - 1; None: another piece each time.
        style: a part of the name of a composer that the model knows; None: not asked, as for the next three.
        density: notes a second, about.
        loudness: mean velocity, about.
        seconds: when the last note of the whole piece ends, about, on the seed's clock.

    Raises:
        SettingError: one of them is outside its range.
    """

    notes: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    random_seed: int | None = None
    style: str | None = None
    density: float | None = None
    loudness: float | None = None
    seconds: float | None = None

    def __post_init__(self):
        for name, expected, fits in (
            ("notes", "1 or more", self.limit >= 1),
            ("temperature", "0 or more", 0 <= self.temperature < float("inf")),
            ("top_p", "more than 0, at most 1", 0 < self.top_p <= 1),
            ("min_p", "0 or more, less than 1", 0 <= self.min_p < 1),
            ("random_seed", "0 to 2**32 - 1", self.random_seed is None or 0 <= self.random_seed < 2**32),
            (
                "seconds",
                f"more than 0, at most {MOST_SECONDS}",
                self.seconds is None or 0 < self.seconds <= MOST_SECONDS,
            ),
        ):
            if not fits:
                raise SettingError(f"{name}: expected {expected}, got {getattr(self, name)}")

    @property
    def limit(self) -> int:
        """Give the most notes that are drawn."""
        return self.notes if self.notes is not None else NEW_NOTES if self.seconds is None else MOST_NEW_NOTES


@dataclass(frozen=True)
class Card:
    """All that one must know to use a model; `facts` is the JSON that the trainer's export wrote."""

    facts: dict
    encoding: Encoding

    @classmethod
    def parse(cls, text: str | bytes, name: str = "a model's card") -> "Card":
        """Parse a card's JSON; keys that we do not know are ignored.

        Args:
            name: of the card, for the error.

        Raises:
            RecordError: the card is damaged, or newer than this code.
        """
        try:
            facts = checksums.checked(text, name)
            if facts["schema"] > CARD_SCHEMA:
                raise RecordError(f"{name} has schema {facts['schema']}; this version reads up to {CARD_SCHEMA}")
            if not isinstance(facts["recipe"], str):
                raise TypeError(f"recipe: expected a name, got {facts['recipe']!r:.50}")
            for state, spec in facts["state"].items():
                _check_state(state, spec["shape"], spec["dtype"])
            card = cls(facts, encodings.from_config(facts["encoding"]))
            if card.controls and facts["state"].get(controls.STATE, {}).get("shape") != [len(controls.NAMES)]:
                raise ValueError(f"controls: expected {len(controls.NAMES)} numbers {controls.STATE!r} in the state")
            return card
        except (ValueError, KeyError, TypeError, AttributeError, EncodingError) as error:
            raise RecordError(f"{name} is damaged: {error!r}") from error

    @property
    def name(self) -> str:
        """Give the name of the recipe."""
        return self.facts["recipe"]

    @property
    def controls(self) -> Controls | None:
        """Give what can be asked of the model; None: nothing can."""
        return Controls.from_card(self.facts["controls"]) if "controls" in self.facts else None

    def empty_state(self, batch: int = 1) -> dict[str, np.ndarray]:
        """Make the state before the first row: zeros (PAD), shapes [batch, …] and types as the card lists them."""
        return {
            f"state_{name}": np.zeros((batch, *spec["shape"]), spec["dtype"])
            for name, spec in self.facts["state"].items()
        }


def _check_state(name: str, shape: list, dtype: str) -> None:
    """Refuse a state that no model has, as memory is taken for it before the first note.

    Raises:
        ValueError, TypeError: its type is no type of a state, its shape is no shape, or it is too large.
    """
    if dtype not in ("int32", "float32"):
        raise ValueError(f"state {name!r:.50}: expected int32 or float32, got {dtype!r:.50}")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or math.prod(shape) > _MOST_STATE:
        raise ValueError(f"state {name!r:.50}: expected a shape of at most {_MOST_STATE:,} numbers, got {shape!r:.50}")


class Chunk(NamedTuple):
    """Some notes of a stream."""

    notes: Notes  # on the seed's clock
    model: str  # "name/version" of the model that drew them
    ended: str | None  # in the last chunk: "final" (the piece ended by itself) or "length"; else None
    longest_run: Run | None = None  # in the last chunk, where `with_longest_run` has looked for it
    unread: int = 0  # notes before that the model cannot express and has not read: the seed's, or a former version's


@dataclass
class _PieceState:
    """How far one piece is: its model, the model's state, the clock and the rows."""

    card: Card
    version: int
    state: State
    clock: float  # seconds; the next row counts its time from here
    rows_so_far: Rows  # int32 [n, F], the seed's included
    seed_rows: int  # of them, the seed's; what is asked holds for the others
    seed_clock: float  # seconds; when what is asked begins to hold
    unread: int  # notes that the model cannot express

    @property
    def model(self) -> str:
        """Give the model's name and version, as "name/version"."""
        return f"{self.card.name}/{self.version}"


class _RetryBudget:
    """Counts the failures of one call: _TRIES of one version in a row, and _FAILURES of all versions."""

    def __init__(self):
        self._last_version: int | None = -1  # no version is below 0
        self._in_a_row = self._failures = 0

    def spend(self, version: int | None, error: Unavailable) -> None:
        """Count a failure of `version` (None: there was no version); raise its error if the budget is spent."""
        self._in_a_row = self._in_a_row + 1 if version == self._last_version else 1
        self._failures += 1
        self._last_version = version
        if self._in_a_row == _TRIES or self._failures == _FAILURES:
            raise error


def read(call: Call, signature: str, pieces: Sequence[Rows], state: State) -> Iterator[Reply]:
    """Let a model read pieces side by side, PRIME_BLOCK rows of each in one call; yield each reply.

    Args:
        signature: `prime` or `likelihood`.
        pieces: int32 [n, F] each; they need not be of one length.
        state: before their first rows.

    Raises:
        BackendError: the call failed, or the reply lacks the state.
    """
    for at in range(0, max(map(len, pieces)), PRIME_BLOCK):
        rows, length = _padded([piece[at : at + PRIME_BLOCK] for piece in pieces], PRIME_BLOCK)
        reply = call(signature, {"rows": rows, "length": length, **state})
        state = _state(reply, state)
        yield reply


def prime(call: Call, pieces: Sequence[Rows], state: State) -> State:
    """Let a model read pieces side by side, as `read` does, and return the state after all of their rows."""
    after = state
    for reply in read(call, "prime", pieces, state):
        after = reply.outputs
    return {name: after[name] for name in state}


def draw(
    call: Call, encoding: Encoding, noise: np.ndarray, settings: Sequence[Settings], state: State
) -> tuple[np.ndarray, State]:
    """Draw the next rows of pieces side by side in one call.

    Args:
        noise: float32 [B, n, F], n from 1 to CHUNK.
        settings: of each piece.
        state: after the rows before.

    Returns:
        The rows, int32 [B, n, F], and the state after them. After END all rows of a piece are END.

    Raises:
        BackendError: the call failed, or the reply is not of this encoding.
    """
    inputs = {name: np.array([getattr(piece, name) for piece in settings], "f4") for name in _DRAWING}
    if noise.shape[1] == 1:
        reply = call("step", {"noise": noise[:, 0], **inputs, **state})
        rows = _output(reply, "row", noise[:, 0].shape)[:, None]
    else:
        block, count = _padded(list(noise), CHUNK)
        reply = call("generate", {"noise": block, "count": count, **inputs, **state})
        rows = _output(reply, "rows", block.shape)[:, : noise.shape[1]]
    if rows.dtype.kind != "i":
        raise BackendError(f"the model's reply: expected classes as whole numbers, got {rows.dtype}")
    if (rows < END).any() or (rows >= encoding.sizes).any():
        raise BackendError(f"the model's reply: expected classes {END} to below {encoding.sizes}, got {rows.tolist()}")
    return rows, _state(reply, state)


def ask(card: Card, settings: Settings, clock: float, *, begun: bool = False) -> np.ndarray | None:
    """Write what is asked of a piece as its state carries it, from `clock` seconds on: float32 (4,).

    Args:
        begun: new notes have been drawn, so that the piece may last longer already.

    Returns None where nothing is asked.

    Raises SettingError: the model has no controls, lacks that style or number, or the piece lasts longer already.
    """
    wanted = {name: getattr(settings, name) for name in _ASKED if getattr(settings, name) is not None}
    if not wanted:
        return None
    known = card.controls
    if known is None:
        raise SettingError(f"{', '.join(wanted)}: the model {card.name} was trained without controls; leave them out")
    asked = np.zeros(len(controls.NAMES), "f4")
    for k, (name, value) in enumerate((name, wanted.get(name)) for name in _ASKED):
        if value is None:
            continue
        if name == "seconds":
            if value <= clock and not begun:
                raise SettingError(f"seconds: expected more than {clock:.1f}, which the seed lasts; got {value:g}")
            left = value - clock
            asked[k] = controls.to_cells(max(left - controls.RING, left / 2))
        else:
            asked[k] = known.style_class(value) if name == "style" else known.number_class(name, value)
    return asked


def asking(state: State, asked: Sequence[np.ndarray | None]) -> State:
    """Write what `ask` gives for each piece into their state; where nothing is asked of any, it stays as it is."""
    if all(numbers is None for numbers in asked):
        return state
    nothing = np.zeros(len(controls.NAMES), "f4")
    return {**state, f"state_{controls.STATE}": np.stack([nothing if row is None else row for row in asked])}


def with_longest_run(chunks: Iterable[Chunk], index: Index) -> Iterator[Chunk]:
    """Pass the chunks on, and add to the last one the longest run of all their notes that the training set has, too."""
    parts = []
    for chunk in chunks:
        parts.append(chunk.notes)
        yield chunk if chunk.ended is None else chunk._replace(longest_run=longest_run(np.concatenate(parts), index))


class Generator:
    """Draws continuations from the model of one Backend.

    Args:
        backend: what answers the calls.
        chunk: notes in one `generate` call, 1 to CHUNK; 1 means one `step` call for every note. The piece is the same.
        timeout: seconds for each call; None waits for ever.
        piece_timeout: seconds for each piece, the pauses of who reads it included; None: as long as it takes.
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
        """Ask for the card and the version of the model that new pieces are drawn from. Raises BackendError."""
        reply = self._call(until, None, "describe", {"batch": np.zeros(1, "i4")})
        text = _output(reply, "card", (1,))[0]  # the key, as a restarted server may have another model of that version
        card = self._cards.get(text)
        if card is None:
            card = self._cards[text] = Card.parse(text)
        return card, reply.version

    def stream(self, seed: Notes, settings: Settings) -> Iterator[Chunk]:
        """Continue `seed` (empty: a new piece from its beginning), chunk by chunk.

        Where a call fails because the server or the model's version went away, the model is described again, the
        notes so far are encoded anew, and the stream goes on: nothing is lost. Notes that a model cannot express are
        left out of what it reads.

        Raises:
            EncodingError: the model cannot express any note of the seed.
            SettingError: the model does not have what the settings ask for.
            BackendError: no model, no time (for a call, or for the piece), or too many at once.
        """
        until = time.monotonic() + self._piece_timeout
        rng = np.random.default_rng(settings.random_seed)
        began = None if len(seed) else 0.0
        piece = self._prime(seed, began, until, settings)
        notes_so_far, left, ended = seed, settings.limit, None
        while ended is None:
            count = 1 if settings.limit - left < _FIRST_STEPS or self._chunk == 1 else min(self._chunk, left)
            noise = rng.random((count, len(piece.card.encoding.names)), "f4")
            budget = _RetryBudget()
            while True:
                try:
                    call = partial(self._call, until, piece.version)
                    (rows,), piece.state = draw(call, piece.card.encoding, noise[None], [settings], piece.state)
                    break
                except Unavailable as error:
                    budget.spend(piece.version, error)
                piece = self._prime(notes_so_far, began, until, settings, before=piece)
                if len(piece.card.encoding.names) != noise.shape[1]:  # the new version has another encoding
                    noise = rng.random((count, len(piece.card.encoding.names)), "f4")
            piece.rows_so_far = np.concatenate([piece.rows_so_far, rows])
            notes = piece.card.encoding.decode(rows, after=piece.clock)[:left]  # a row may be several notes
            piece.clock = piece.card.encoding.clock(notes, piece.clock)
            notes_so_far = np.concatenate([notes_so_far, notes])
            left -= len(notes)
            ended = "final" if (rows[:, 0] == END).any() else "length" if left <= 0 else None
            yield Chunk(notes, piece.model, ended, unread=piece.unread)

    def _prime(
        self,
        notes: Notes,
        began: float | None,
        until: float,
        settings: Settings,
        *,
        before: _PieceState | None = None,
    ) -> _PieceState:
        """Describe the model and let it read the notes of a piece so far.

        Args:
            notes: the seed and what was drawn.
            began: when the piece began, seconds; None: with the first note that the model can express.
            settings: what is asked holds from the seed's end on.
            before: the piece as it was, if any. Where the encoding is the same, the very same rows are read again:
                notes encoded anew may fall into a neighbouring class, and the piece would go on as another one.

        Raises:
            EncodingError: there are notes, and the model can express none of them.
            SettingError: as `ask` does.
            BackendError: as `stream` does.
        """
        budget = _RetryBudget()
        while True:
            version = None
            try:
                card, version = self.describe(until)
                if before and before.card.encoding.config() == card.encoding.config():
                    rows, clock, unread = before.rows_so_far, before.clock, before.unread
                    seed_rows, seed_clock = before.seed_rows, before.seed_clock
                else:
                    supported = card.encoding.supported_notes(nt.sort(notes))
                    rows = card.encoding.encode(supported, begin=True, end=False, after=began)
                    # time goes on during the notes that are left out
                    clock = max(card.encoding.clock(supported, 0.0), notes["start"].max(initial=-math.inf))
                    unread = len(notes) - len(supported)
                    seed_rows, seed_clock = len(rows), clock
                asked = ask(card, settings, seed_clock, begun=before is not None)  # the controls may be others now
                call = partial(self._call, until, version)
                state = prime(call, [rows if asked is None else rows[:seed_rows]], card.empty_state())
                if asked is not None:  # it holds for the other rows only
                    state = asking(state, [asked])
                    state = prime(call, [rows[seed_rows:]], state) if seed_rows < len(rows) else state
                return _PieceState(card, version, state, clock, rows, seed_rows, seed_clock, unread)
            except Unavailable as error:
                budget.spend(version, error)

    def _call(self, until: float, version: int | None, signature: str, inputs: Mapping[str, np.ndarray]) -> Reply:
        """Call a signature in the time that the call and the piece have left. Raises BackendError."""
        left = until - time.monotonic()
        too_late = DeadlineExceeded(f"the piece was not finished within {self._piece_timeout:g} seconds")
        if left <= 0:
            raise too_late
        timeout = min(left, self._timeout)
        try:
            reply = self._backend.call(
                signature, inputs, version=version, timeout=None if timeout == _NEVER else timeout
            )
            if version not in (None, reply.version):  # with another model's state the piece would go on as another one
                raise BackendError(f"the model's reply: asked version {version}, version {reply.version} answered")
            return reply
        except DeadlineExceeded as error:
            if left < self._timeout:
                raise too_late from error
            raise


def _padded(blocks: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad blocks, [n, F] each, to [B, size, F] with zeros behind; return that and each block's n, int32 [B]."""
    padded = np.zeros((len(blocks), size, blocks[0].shape[1]), blocks[0].dtype)
    for row, block in zip(padded, blocks, strict=True):
        row[: len(block)] = block
    return padded, np.array([len(block) for block in blocks], "i4")


def _output(reply: Reply, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Take one tensor out of the reply. Raises BackendError if it is missing or has another shape."""
    if name not in reply.outputs:
        raise BackendError(f"the model's reply lacks {name!r}; it has {sorted(reply.outputs)}")
    if reply.outputs[name].shape != shape:
        raise BackendError(f"the model's reply: expected {name} of shape {shape}, got {reply.outputs[name].shape}")
    return reply.outputs[name]


def _state(reply: Reply, before: State) -> State:
    """Take the state out of the reply. Raises BackendError if its shapes or types changed, or it is not finite."""
    state = {name: _output(reply, name, array.shape) for name, array in before.items()}
    for name, array in state.items():
        if array.dtype != before[name].dtype:
            raise BackendError(f"the model's reply: expected {name} of {before[name].dtype}, got {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BackendError(f"the model's reply: expected finite numbers in {name}, got others")
    return state
