"""A model → how like real music its own is, between a floor and a ceiling. Knows nothing of pages or folders.

What is compared, all as the model's encoding rounds it, and none of it shorter than LEAST notes:

continued   `seconds` of what the model makes of the same seeds, each SEED_NOTES notes from a random place of a piece
new         the first `seconds` of pieces that it begins by itself
reference   real music from places, and beginnings, of pieces that give no seed
ceiling     as many real excerpts as there are seeds: what really follows them; then, for the other rounds, other pieces
floor       notes drawn one by one from how pitch, velocity, step and duration are distributed in the train split

A round is one random seed for all pieces; every figure is its mean over the rounds ± its standard deviation.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from music import notes as nt
from music.analysis import similarity
from music.encodings import Encoding
from music.errors import RecordError
from music.generation import Backend, Card, Settings
from music.notes import Notes
from trainer.data import Corpus
from trainer.evaluation import batch_generation
from trainer.evaluation.batch_generation import Part, Played

SEED_NOTES = 256
KINDS = ("continued", "new")
CEILING, FLOOR = "real music", "noise"
_PLACES = 4  # of each reference piece
_MARGINALS = 64  # train pieces that the floor's distributions are taken from
_MOST = 30  # notes a second, on average, that a piece may have; a denser one is cut
_APART = 1000  # random seeds between two rounds

Figures = dict[str, list[float]]  # by name, one a round


@dataclass(frozen=True)
class Plan:
    """What to measure: how many seeds and rounds, how long excerpts are, and until when a new piece is waited for."""

    seeds: int = 16
    rounds: int = 3
    first: int = 0  # the first round's number; other rounds for a choice than for its confirmation
    seconds: float = 120.0
    minutes: float = 5.0


@dataclass(frozen=True)
class Material:
    """The real side of it."""

    seeds: list[Notes]
    follows: list[Notes]  # what really does, each on the clock of what is compared
    real: dict[str, list[list[Notes]]]  # the ceiling: excerpts by kind and round
    reference: dict[str, similarity.Reference]  # by kind
    lengths: np.ndarray  # seconds of all pieces of the split


@dataclass(frozen=True)
class Heard:
    """What one way of drawing came to, or real music, or noise."""

    figures: dict[str, Figures]  # by kind
    pieces: dict[str, list[list[Played]]]  # by kind and round, as they were made; none of real music and of noise


def gather(corpus: Corpus, encoding: Encoding, plan: Plan) -> Material:
    """Choose seeds, ceiling and reference, always the same ones of a corpus; pieces of one are not in another.

    Raises:
        RecordError: there are too few pieces that are long enough.
    """
    places = {piece: _places(corpus.notes(piece), encoding, plan.seconds) for piece in range(len(corpus.index))}
    rng = np.random.default_rng(0)
    pieces = rng.permutation([piece for piece, found in places.items() if len(found)])
    count, groups = plan.seeds, plan.rounds
    if len(pieces) < count * groups + 2:
        raise RecordError(
            f"{len(pieces)} pieces have more than {SEED_NOTES} notes and {plan.seconds:g} s after them: expected "
            f"{count * groups + 2} for {count} seeds, {groups} rounds of real music and a reference"
        )

    def follow(piece: int) -> tuple[Notes, Notes]:
        """A seed from a random place, on a clock that begins with it, and what follows."""
        notes, events = corpus.notes(piece), encoding.events(corpus.notes(piece))
        first = int(rng.choice(places[piece]))
        last = int(events[np.searchsorted(events, first + SEED_NOTES)])
        moved = nt.shift(notes[first:], -float(notes["start"][first]))
        return moved[: last - first], _excerpt(moved[last - first :], float(moved["start"][last - first - 1]), plan)

    def begin(piece: int) -> Notes:
        notes = corpus.notes(piece)
        return _excerpt(notes, float(notes["start"][0]), plan)

    told = [pieces[k * count : (k + 1) * count].tolist() for k in range(groups)]
    rest = pieces[groups * count :].tolist()
    followed = [[follow(piece) for piece in group] for group in told]
    real = {
        "continued": [[after for _, after in group] for group in followed],
        "new": [[begin(piece) for piece in group] for group in told],
    }
    others = {
        "continued": [follow(piece)[1] for piece in rest for _ in range(_PLACES)],
        "new": [begin(piece) for piece in rest],
    }
    return Material(
        seeds=[seed for seed, _ in followed[0]],
        follows=[after for _, after in followed[0]],
        real={kind: [_usable(rounded(encoding, group)) for group in groups] for kind, groups in real.items()},
        reference={kind: similarity.Reference(_usable(rounded(encoding, some))) for kind, some in others.items()},
        lengths=np.array([nt.length(corpus.notes(k)) - corpus.notes(k)["start"][0] for k in range(len(corpus.index))]),
    )


def _places(notes: Notes, encoding: Encoding, seconds: float) -> np.ndarray:
    """First notes of events that SEED_NOTES notes and as many seconds follow."""
    events = encoding.events(notes)[:-1]
    events = events[events + SEED_NOTES < len(notes) - similarity.LEAST]
    return events[notes["start"][events + SEED_NOTES] + seconds < notes["start"][-1]]


def _excerpt(notes: Notes, after: float, plan: Plan) -> Notes:
    """The notes that begin less than plan.seconds after a time, on a clock that begins then."""
    return nt.shift(notes[notes["start"] < after + plan.seconds], -after)


def rounded(encoding: Encoding, excerpts: Iterable[Notes]) -> list[Notes]:
    """Excerpts as the encoding has them, so that its rounding is no difference from what a model plays."""
    rows = (encoding.encode(notes, begin=False, end=False, after=0.0) for notes in excerpts)
    return [nt.sort(encoding.decode(each)) for each in rows]


def _usable(excerpts: Sequence[Notes]) -> list[Notes]:
    return [notes for notes in excerpts if len(notes) >= similarity.LEAST]


def ceiling(material: Material) -> Heard:
    """Real music beside real music."""
    return Heard({kind: _figures(material, kind, material.real[kind]) for kind in KINDS}, {})


def floor(train: Corpus, encoding: Encoding, material: Material, plan: Plan) -> tuple[Heard, list[Notes]]:
    """Noise beside real music, and the excerpts of its first round."""
    rng = np.random.default_rng(0)
    some = rng.permutation(len(train.index))[:_MARGINALS].tolist()
    known = rounded(encoding, (nt.shift(notes, -float(notes["start"][0])) for notes in map(train.notes, some)))
    notes, steps = np.concatenate(known), np.concatenate([nt.steps(each) for each in known])

    def one() -> Notes:
        size = int(_MOST * plan.seconds)
        start = np.cumsum(rng.choice(steps, size))
        duration, pitch, velocity = (
            rng.choice(values, size) for values in (notes["end"] - notes["start"], notes["pitch"], notes["velocity"])
        )
        drawn = nt.from_columns(start, start + duration, pitch, velocity)
        return nt.sort(drawn[start < plan.seconds])

    made = [[one() for _ in range(plan.seeds)] for _ in range(plan.rounds)]
    return Heard({kind: _figures(material, kind, made) for kind in KINDS}, {}), made[0]


def listen(
    backend: Backend,
    card: Card,
    material: Material,
    plan: Plan,
    ways: Sequence[Settings],
    log: Callable[[str], object] = lambda line: None,
) -> list[Heard]:
    """Have the model play in each way; of the first one new pieces are waited for until they end, or plan.minutes."""
    untils = [_until(plan, first=way is ways[0]) for way in ways]
    parts = [
        Part(seed, _settings(way, plan, turn, k, until[kind]), until[kind])
        for way, until in zip(ways, untils, strict=True)
        for kind in KINDS
        for turn in range(plan.rounds)
        for k, seed in enumerate(material.seeds if kind == "continued" else [nt.empty()] * len(material.seeds))
    ]
    made = batch_generation.play(backend, card, parts)  # all ways at once, as a call of many rows is the quickest
    heard = []
    for way in ways:
        pieces = {kind: [[next(made) for _ in material.seeds] for _ in range(plan.rounds)] for kind in KINDS}
        figures = {}
        for kind in KINDS:
            excerpts = [
                _usable([cut(piece.notes, kind, material, k, plan) for k, piece in enumerate(turn)])
                for turn in pieces[kind]
            ]
            figures[kind] = _figures(material, kind, excerpts)
            # a new piece of the first way plays on for minutes: an end counts in the time that all ways have
            figures[kind]["ended"] = [
                float(
                    np.mean(
                        [piece.final and (kind != "new" or nt.length(piece.notes) <= plan.seconds) for piece in turn]
                    )
                )
                for turn in pieces[kind]
            ]
        heard.append(Heard(figures, pieces))
        notes = sum(len(piece.notes) for turns in pieces.values() for turn in turns for piece in turn)
        log(f"{len(heard)} of {len(ways)}: {name(way)}: {notes:,} notes")
    return heard


def name(way: Settings) -> str:
    return f"temperature {way.temperature:g}, top-p {way.top_p:g}, min-p {way.min_p:g}"


def _until(plan: Plan, first: bool) -> dict[str, float]:
    """How many seconds of each kind are made."""
    return {"continued": plan.seconds, "new": max(60 * plan.minutes, plan.seconds) if first else plan.seconds}


def _settings(way: Settings, plan: Plan, turn: int, k: int, seconds: float) -> Settings:
    """Those of one piece; the same random seed in every way, so that ways are compared on the same luck."""
    return replace(way, notes=int(_MOST * seconds), random_seed=(plan.first + turn) * _APART + k)


def cut(notes: Notes, kind: str, material: Material, k: int, plan: Plan) -> Notes:
    """What is compared of a piece that was made."""
    if not len(notes):
        return notes
    after = float(material.seeds[k]["start"][-1] if kind == "continued" else notes["start"][0])
    return nt.sort(_excerpt(notes, after, plan))


def _figures(material: Material, kind: str, excerpts: Sequence[Sequence[Notes]]) -> Figures:
    """Compare each round's excerpts; those too short to compare are counted."""
    rounds = [material.reference[kind].compare(each) if len(each) else {} for each in excerpts]
    names = next((each for each in rounds if each), {})
    found = {name: [each.get(name, float("nan")) for each in rounds] for name in names}
    return found | {"too short": [float(len(material.seeds) - len(each)) for each in excerpts]}


def told(values: Sequence[float]) -> tuple[float, float]:
    """The mean over the rounds and the standard deviation of one; NaN of a single round."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def gain(some: Mapping[str, Figures], others: Mapping[str, Figures], kind: str, name: str) -> tuple[float, float]:
    """By how much a figure is higher in one way than in another, of the same rounds: mean and standard deviation."""
    return told((np.array(some[kind][name]) - np.array(others[kind][name])).tolist())


def endings(pieces: Sequence[Played], lengths: np.ndarray, minutes: float) -> list[tuple[float, float, float]]:
    """How many pieces are over after so many minutes: (minutes, share of those made, share of the real ones)."""
    made = np.array([nt.length(piece.notes) if piece.final else np.inf for piece in pieces])
    steps = [step for step in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0) if step <= minutes]
    return [(step, float(np.mean(made <= 60 * step)), float(np.mean(lengths <= 60 * step))) for step in steps]
