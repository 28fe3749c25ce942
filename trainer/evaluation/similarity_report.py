"""A model → how similar its music is to real music, between a floor and a ceiling. Knows no pages and no folders.

These excerpts are compared, all as the model's encoding rounds them, and none shorter than LEAST notes:

continued   `seconds` of the model's continuations of seeds, each SEED_NOTES notes from a random position in a piece
new         the first `seconds` of pieces that it begins by itself
reference   real music from random positions, and from beginnings, of pieces that give no seed
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
_POSITIONS = 4  # random ones, in each reference piece
_MARGINALS = 64  # train pieces that the floor's distributions are taken from
_MOST = 30  # notes a second, on average, that a piece may have; a denser one is cut
_APART = 1000  # random seeds between two rounds

Figures = dict[str, list[float]]  # by name, one a round


@dataclass(frozen=True)
class Plan:
    """What to measure: how many seeds and rounds, how long excerpts are, and how long new pieces may become."""

    seeds: int = 16
    rounds: int = 3
    first: int = 0  # the first round's number; other rounds for a choice than for its confirmation
    seconds: float = 120.0
    minutes: float = 5.0


@dataclass(frozen=True)
class Material:
    """The real music that a model is compared with."""

    seeds: list[Notes]
    follows: list[Notes]  # their real continuations, on the clock of what is compared
    real: dict[str, list[list[Notes]]]  # the ceiling: excerpts by kind and round
    reference: dict[str, similarity.Reference]  # by kind
    lengths: np.ndarray  # seconds of all pieces of the split


@dataclass(frozen=True)
class Result:
    """The figures of one way of drawing, or of real music, or of noise."""

    figures: dict[str, Figures]  # by kind
    pieces: dict[str, list[list[Played]]]  # by kind and round, as the model played them; empty for real music and noise


def gather(corpus: Corpus, encoding: Encoding, plan: Plan) -> Material:
    """Choose seeds, ceiling and reference: always the same ones of a corpus, from different pieces.

    Raises:
        RecordError: there are too few pieces that are long enough.
    """
    positions = {piece: _positions(corpus.notes(piece), encoding, plan.seconds) for piece in range(len(corpus.index))}
    rng = np.random.default_rng(0)
    pieces = rng.permutation([piece for piece, notes in positions.items() if len(notes)])
    count, groups = plan.seeds, plan.rounds
    if len(pieces) < count * groups + 2:
        raise RecordError(
            f"{len(pieces)} pieces have more than {SEED_NOTES} notes and {plan.seconds:g} s after them: expected "
            f"{count * groups + 2} for {count} seeds, {groups} rounds of real music and a reference"
        )

    def follow(piece: int) -> tuple[Notes, Notes]:
        """Cut a seed at a random position, on a clock that begins with it, and the music behind it."""
        notes, events = corpus.notes(piece), encoding.events(corpus.notes(piece))
        first = int(rng.choice(positions[piece]))
        last = int(events[np.searchsorted(events, first + SEED_NOTES)])
        moved = nt.shift(notes[first:], -float(notes["start"][first]))
        return moved[: last - first], _excerpt(moved[last - first :], float(moved["start"][last - first - 1]), plan)

    def begin(piece: int) -> Notes:
        notes = corpus.notes(piece)
        return _excerpt(notes, float(notes["start"][0]), plan)

    members = [pieces[k * count : (k + 1) * count].tolist() for k in range(groups)]
    rest = pieces[groups * count :].tolist()
    followed = [[follow(piece) for piece in group] for group in members]
    real = {
        "continued": [[after for _, after in group] for group in followed],
        "new": [[begin(piece) for piece in group] for group in members],
    }
    others = {
        "continued": [follow(piece)[1] for piece in rest for _ in range(_POSITIONS)],
        "new": [begin(piece) for piece in rest],
    }
    return Material(
        seeds=[seed for seed, _ in followed[0]],
        follows=[after for _, after in followed[0]],
        real={kind: [_usable(rounded(encoding, group)) for group in groups] for kind, groups in real.items()},
        reference={kind: similarity.Reference(_usable(rounded(encoding, some))) for kind, some in others.items()},
        lengths=np.array([nt.length(corpus.notes(k)) - corpus.notes(k)["start"][0] for k in range(len(corpus.index))]),
    )


def _positions(notes: Notes, encoding: Encoding, seconds: float) -> np.ndarray:
    """Find the events that SEED_NOTES notes and, after these, so many seconds follow; by their first note's number."""
    events = encoding.events(notes)[:-1]
    events = events[events + SEED_NOTES < len(notes) - similarity.LEAST]
    return events[notes["start"][events + SEED_NOTES] + seconds < notes["start"][-1]]


def _excerpt(notes: Notes, after: float, plan: Plan) -> Notes:
    """Cut out the notes that begin less than plan.seconds after a time, which becomes 0 s."""
    return nt.shift(notes[notes["start"] < after + plan.seconds], -after)


def rounded(encoding: Encoding, excerpts: Iterable[Notes]) -> list[Notes]:
    """Encode and decode excerpts, so that rounding is no difference between them and a model's music."""
    rows = (encoding.encode(notes, begin=False, end=False, after=0.0) for notes in excerpts)
    return [nt.sort(encoding.decode(each)) for each in rows]


def _usable(excerpts: Sequence[Notes]) -> list[Notes]:
    return [notes for notes in excerpts if len(notes) >= similarity.LEAST]


def ceiling(material: Material) -> Result:
    """Compare real music with real music."""
    return Result({kind: _figures(material, kind, material.real[kind]) for kind in KINDS}, {})


def floor(train: Corpus, encoding: Encoding, material: Material, plan: Plan) -> tuple[Result, list[Notes]]:
    """Compare noise with real music. Return the result and the noise of the first round."""
    rng = np.random.default_rng(0)
    some = rng.permutation(len(train.index))[:_MARGINALS].tolist()
    sampled = rounded(encoding, (nt.shift(notes, -float(notes["start"][0])) for notes in map(train.notes, some)))
    notes, steps = np.concatenate(sampled), np.concatenate([nt.steps(each) for each in sampled])

    def draw() -> Notes:
        size = int(_MOST * plan.seconds)
        start = np.cumsum(rng.choice(steps, size))
        duration, pitch, velocity = (
            rng.choice(values, size) for values in (notes["end"] - notes["start"], notes["pitch"], notes["velocity"])
        )
        drawn = nt.from_columns(start, start + duration, pitch, velocity)
        return nt.sort(drawn[start < plan.seconds])

    noise = [[draw() for _ in range(plan.seeds)] for _ in range(plan.rounds)]
    return Result({kind: _figures(material, kind, noise) for kind in KINDS}, {}), noise[0]


def listen(
    backend: Backend,
    card: Card,
    material: Material,
    plan: Plan,
    settings: Sequence[Settings],
    log: Callable[[str], object] = lambda line: None,
) -> list[Result]:
    """Let the model play with each of the settings.

    New pieces of the first settings go on until they end, or for plan.minutes.
    """
    limits = [_seconds(plan, first=each is settings[0]) for each in settings]
    parts = [
        Part(seed, _of_piece(each, plan, turn, k, seconds[kind]), seconds[kind])
        for each, seconds in zip(settings, limits, strict=True)
        for kind in KINDS
        for turn in range(plan.rounds)
        for k, seed in enumerate(material.seeds if kind == "continued" else [nt.empty()] * len(material.seeds))
    ]
    played = batch_generation.play(backend, card, parts)  # all settings at once: large calls are the fastest
    results = []
    for each in settings:
        pieces = {kind: [[next(played) for _ in material.seeds] for _ in range(plan.rounds)] for kind in KINDS}
        figures = {}
        for kind in KINDS:
            excerpts = [
                _usable([cut(piece.notes, kind, material, k, plan) for k, piece in enumerate(turn)])
                for turn in pieces[kind]
            ]
            figures[kind] = _figures(material, kind, excerpts)
            # new pieces of the first settings go on for minutes: only an end in the time of all settings counts
            figures[kind]["ended"] = [
                float(
                    np.mean(
                        [piece.final and (kind != "new" or nt.length(piece.notes) <= plan.seconds) for piece in turn]
                    )
                )
                for turn in pieces[kind]
            ]
        results.append(Result(figures, pieces))
        notes = sum(len(piece.notes) for turns in pieces.values() for turn in turns for piece in turn)
        log(f"{len(results)} of {len(settings)}: {name(each)}: {notes:,} notes")
    return results


def name(settings: Settings) -> str:
    """Name settings by what differs between them, for tables and listen.json."""
    asked = {each: getattr(settings, each) for each in ("style", "density", "loudness")}
    parts = [f"{each} {value}" for each, value in asked.items() if value is not None]
    drawing = f"temperature {settings.temperature:g}, top-p {settings.top_p:g}, min-p {settings.min_p:g}"
    return ", ".join([drawing, *parts])


def _seconds(plan: Plan, first: bool) -> dict[str, float]:
    """Choose how many seconds of each kind are played; new pieces of the first settings are longer."""
    return {"continued": plan.seconds, "new": max(60 * plan.minutes, plan.seconds) if first else plan.seconds}


def _of_piece(settings: Settings, plan: Plan, turn: int, k: int, seconds: float) -> Settings:
    """Make one piece's settings. Its random seed is the same in all settings, so these differ by no other luck."""
    return replace(settings, notes=int(_MOST * seconds), random_seed=(plan.first + turn) * _APART + k)


def cut(notes: Notes, kind: str, material: Material, k: int, plan: Plan) -> Notes:
    """Cut what is compared out of a piece that the model played."""
    if not len(notes):
        return notes
    after = float(material.seeds[k]["start"][-1] if kind == "continued" else notes["start"][0])
    return nt.sort(_excerpt(notes, after, plan))


def _figures(material: Material, kind: str, excerpts: Sequence[Sequence[Notes]]) -> Figures:
    """Compare each round's excerpts; those too short to compare are counted."""
    rounds = [material.reference[kind].compare(each) if len(each) else {} for each in excerpts]
    names = next((each for each in rounds if each), {})
    figures = {name: [each.get(name, float("nan")) for each in rounds] for name in names}
    return figures | {"too short": [float(len(material.seeds) - len(each)) for each in excerpts]}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Compute the mean over the rounds and the standard deviation of one, which is NaN where there is only one."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def gain(some: Mapping[str, Figures], others: Mapping[str, Figures], kind: str, name: str) -> tuple[float, float]:
    """Compute by how much a figure differs between two results, round by round: mean and standard deviation."""
    return mean_and_deviation((np.array(some[kind][name]) - np.array(others[kind][name])).tolist())


def endings(pieces: Sequence[Played], lengths: np.ndarray, minutes: float) -> list[tuple[float, float, float]]:
    """Count the pieces that are over after so many minutes: (minutes, share of the model's, share of the real ones)."""
    seconds = np.array([nt.length(piece.notes) if piece.final else np.inf for piece in pieces])
    steps = [step for step in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0) if step <= minutes]
    return [(step, float(np.mean(seconds <= 60 * step)), float(np.mean(lengths <= 60 * step))) for step in steps]
