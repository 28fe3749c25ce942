"""How like real music other music is: distributions of both, and how far apart they are. Knows nothing of models.

Of every excerpt seven quantities are counted: pitch, interval (from each note to the next), step, duration, velocity,
polyphony (how many notes sound, over time) and structure: how alike the pitch classes of five seconds are to those of
five seconds that begin 10, 20 … 60 s later, as a cosine. They are compared in two ways:

together    all excerpts' notes as one distribution: the overlap area of the two, and KL(real ‖ other), in nats;
apart       after Yang and Lerch 2020, "On the evaluation of generative models in music": the distances among real
            excerpts beside the distances from each other excerpt to each real one, as kernel densities: their overlap
            area and KL. Music that is right on average and always the same fails here. A distance of two excerpts is
            the earth mover's, in bins, where theirs is Euclidean: it does not depend on how fine the bins are.
"""

from collections.abc import Sequence

import numpy as np

from music.analysis import statistics
from music.notes import Notes

LAGS = (10, 20, 30, 40, 50, 60)  # seconds
QUANTITIES = ("pitch", "interval", "step", "duration", "velocity", "polyphony", "structure")
LEAST = 64  # notes that an excerpt must have to be compared
_WIDEST = 24  # semitones; a wider interval counts as this one
_DENSEST = 40  # notes at once; more count as this many
_WINDOW = 5  # seconds whose pitch classes make one profile
_LIKENESSES = 20  # bins of the cosine
_LONGEST_LOOP = 64  # notes in what is repeated
_SHORT = int(np.searchsorted(statistics.EDGES["step"], 0.016))  # times below 16 ms are one bin: a hand's unevenness
_GRID = 512  # places at which densities are compared
_EVEN = 1e-3  # of each distribution is spread evenly, so that KL stays finite

Features = dict[str, np.ndarray]  # by quantity: float64 [parts, bins], a distribution each; NaN where there is none


def features(notes: Notes) -> Features:
    """Count one excerpt. Structure has a part for each lag; one that is as long as the excerpt or longer is NaN."""
    counted = statistics.histograms(notes)
    times = {name: np.append(counted[name][:_SHORT].sum(), counted[name][_SHORT:]) for name in ("step", "duration")}
    intervals = np.clip(np.diff(notes["pitch"].astype(int)), -_WIDEST, _WIDEST)
    found = {
        "pitch": counted["pitch"],
        "interval": np.bincount(intervals + _WIDEST, minlength=2 * _WIDEST + 1),
        **times,
        "velocity": counted["velocity"],
        "polyphony": _polyphony(notes),
    }
    return {name: _shares(counts[None]) for name, counts in found.items()} | {"structure": _structure(notes)}


class Reference:
    """Real excerpts, counted once to compare others with."""

    def __init__(self, excerpts: Sequence[Notes]):
        self.excerpts = len(excerpts)
        found = [features(notes) for notes in excerpts]
        self._features = {name: np.stack([each[name] for each in found]) for name in QUANTITIES}
        others = ~np.eye(len(excerpts), dtype=bool)
        self._among = {name: distances(mine, mine)[others] for name, mine in self._features.items()}
        values = {name: [number(notes) for notes in excerpts] for name, number in NUMBERS.items()}
        self.limits = {name: tuple(np.percentile(some, [1, 50, 99])) for name, some in values.items()}

    def compare(self, excerpts: Sequence[Notes]) -> dict[str, float]:
        """How like these the excerpts are: {"together overlap pitch": …, "apart kl structure": …}, the mean over all
        quantities as "… mean", and for each of NUMBERS the share of excerpts "outside" the 1st to 99th percentile."""
        found = [features(notes) for notes in excerpts]
        told: dict[str, float] = {}
        for name in QUANTITIES:
            theirs = np.stack([each[name] for each in found])
            ways = {
                "together": (_pooled(self._features[name]), _pooled(theirs)),
                "apart": _densities(self._among[name], distances(theirs, self._features[name]).ravel()),
            }
            for way, (real, other) in ways.items():
                told[f"{way} overlap {name}"] = overlap(real, other)
                told[f"{way} kl {name}"] = divergence(real, other)
        for kind in ("together overlap", "together kl", "apart overlap", "apart kl"):
            told[f"{kind} mean"] = float(np.mean([told[f"{kind} {name}"] for name in QUANTITIES]))
        for name, number in NUMBERS.items():
            values = np.array([number(notes) for notes in excerpts])
            low, _, high = self.limits[name]
            told[f"outside {name}"] = float(np.mean((values < low) | (values > high)))
            told[f"median {name}"] = float(np.median(values))
        return told


def overlap(p: np.ndarray, q: np.ndarray) -> float:
    """The area below both of two distributions [parts, bins], the mean over the parts: 1 where they are the same."""
    return float(np.minimum(p, q).sum(-1).mean())


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p ‖ q) of distributions [parts, bins] in nats, the mean over the parts."""
    p, q = (_EVEN / each.shape[-1] + (1 - _EVEN) * each for each in (p, q))
    return float((p * np.log(p / q)).sum(-1).mean())


def distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The earth mover's distance, in bins, of each to each: [n, parts, bins], [m, parts, bins] → float64 [n, m].

    It is the mean over the parts that both have; NaN where they have none in common.
    """
    ours, theirs = (np.cumsum(each, axis=-1) for each in (some, others))
    moved = np.stack([np.abs(one[None] - theirs).sum(-1) for one in ours])  # (n, m, parts)
    there = ~np.isnan(moved)
    with np.errstate(invalid="ignore"):
        return np.where(there, moved, 0.0).sum(-1) / there.sum(-1)


# --- single numbers ----------------------------------------------------------------------------------------------


def loop(notes: Notes) -> float:
    """Notes in the longest passage that repeats, pitch by pitch, what it has just played: twice or more in a row."""
    pitches, longest = notes["pitch"], 0
    for size in range(1, min(_LONGEST_LOOP, len(pitches) // 2) + 1):
        differs = np.flatnonzero(pitches[size:] != pitches[:-size])
        again = int(np.diff(np.concatenate([[-1], differs, [len(pitches) - size]])).max()) - 1
        if again >= size:
            longest = max(longest, again + size)
    return longest


def _sounding(notes: Notes) -> float:
    return float(np.sum(notes["end"] - notes["start"]) / (notes["end"].max() - notes["start"].min()))


def _density_of_notes(notes: Notes) -> float:
    return float((len(notes) - 1) / max(notes["start"][-1] - notes["start"][0], 0.01))


NUMBERS = {
    "distinct pitches": lambda notes: float(len(np.unique(notes["pitch"]))),
    "notes at once": _sounding,
    "share of repeated notes": lambda notes: float(np.mean(notes["pitch"][1:] == notes["pitch"][:-1])),
    "median step, s": lambda notes: float(np.median(np.diff(notes["start"]))),
    "notes a second": _density_of_notes,
    "longest loop, notes": loop,
}


# --- counting ----------------------------------------------------------------------------------------------------


def _polyphony(notes: Notes) -> np.ndarray:
    """Seconds during which so many notes sound, from the first onset to the last: float64 [_DENSEST + 1]."""
    times = np.concatenate([notes["start"], notes["end"]])
    order = np.argsort(times, kind="stable")
    sounding = np.cumsum(np.repeat([1, -1], len(notes))[order])
    inside = np.clip(times[order], notes["start"][0], notes["start"][-1])
    return np.bincount(np.clip(sounding[:-1], 0, _DENSEST), np.diff(inside), _DENSEST + 1)


def _structure(notes: Notes) -> np.ndarray:
    """Distributions of the cosine of pitch-class profiles, a part for each lag: float64 [lags, _LIKENESSES]."""
    second = (notes["start"] - notes["start"][0]).astype(int)
    frames = np.zeros((second[-1] + 1, 12))
    np.add.at(frames, (second, notes["pitch"] % 12), 1)
    sums = np.cumsum(np.concatenate([np.zeros((1, 12)), frames]), axis=0)
    profiles = sums[_WINDOW:] - sums[:-_WINDOW]  # (seconds, 12)
    norms = np.linalg.norm(profiles, axis=1)
    parts = []
    for lag in LAGS:
        here, later = profiles[:-lag], profiles[lag:]
        sound = (norms[:-lag] > 0) & (norms[lag:] > 0)
        cosine = (here * later).sum(1)[sound] / (norms[:-lag] * norms[lag:])[sound]
        bins = np.minimum((cosine * _LIKENESSES).astype(int), _LIKENESSES - 1)
        parts.append(np.bincount(bins, minlength=_LIKENESSES))
    return _shares(np.array(parts))


def _shares(counts: np.ndarray) -> np.ndarray:
    """Counts [parts, bins] → a distribution each, NaN where nothing was counted."""
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(-1, keepdims=True)


def _pooled(shares: np.ndarray) -> np.ndarray:
    """The mean distribution of excerpts, over those that have one: [n, parts, bins] → [parts, bins]."""
    there = ~np.isnan(shares[:, :, :1])
    total = np.where(there, shares, 0.0).sum(0)
    return total / np.maximum(there.sum(0), 1)


def _densities(real: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of distances as kernel densities on one grid, [1, _GRID] each, summing to 1."""
    real, other = (each[~np.isnan(each)] for each in (real, other))
    edges = np.linspace(0, 1.05 * max(real.max(initial=1e-9), other.max(initial=1e-9)), _GRID + 1)
    return _density(real, edges), _density(other, edges)


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """A Gaussian kernel of Scott's width, mirrored at 0 as no distance is below."""
    width = max(float(values.std()) * len(values) ** -0.2 / (edges[1] - edges[0]), 0.5) if len(values) else 1.0  # bins
    counts = np.histogram(values, edges)[0]
    reach = min(int(4 * width) + 1, _GRID)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    smooth = np.convolve(np.concatenate([counts[::-1], counts]), kernel, "same")[_GRID:]
    return (smooth / max(smooth.sum(), 1e-300))[None]
