"""Excerpts of real and of other music → how similar they are, by their distributions. Knows nothing of models.

Seven quantities of every excerpt are counted: pitch, interval (from each note to the next), step, duration, velocity,
polyphony (how many notes sound, over time) and structure (the cosine between the pitch classes of five seconds and of
the five seconds that begin 10, 20 … 60 s later). They are compared in two ways:

together    the notes of all excerpts as one distribution: the overlap area of the two, and KL(real ‖ other), in nats;
apart       after Yang and Lerch 2020, "On the evaluation of generative models in music": the distances among real
            excerpts, and the distances from each other excerpt to each real one, as two kernel densities: their overlap
            area and KL. Music that is right on average but always the same fails here. The distance of two excerpts is
            the earth mover's, in bins; theirs is Euclidean. The earth mover's does not depend on the width of the bins.
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
_COSINE_BINS = 20
_LONGEST_LOOP = 64  # notes of the repeated passage
_SHORT = int(np.searchsorted(statistics.EDGES["step"], 0.016))  # shorter times are one bin: a hand's unevenness
_GRID = 512  # points at which densities are compared
_UNIFORM = 1e-3  # the share of each distribution that is spread evenly, so that KL stays finite

Features = dict[str, np.ndarray]  # by quantity: float64 [parts, bins], a distribution each; NaN where there is none


def features(notes: Notes) -> Features:
    """Count one excerpt. Structure has a part for each lag; a lag as long as the excerpt, or longer, gives NaN."""
    counted = statistics.histograms(notes)
    times = {name: np.append(counted[name][:_SHORT].sum(), counted[name][_SHORT:]) for name in ("step", "duration")}
    intervals = np.clip(np.diff(notes["pitch"].astype(int)), -_WIDEST, _WIDEST)
    counts_of = {
        "pitch": counted["pitch"],
        "interval": np.bincount(intervals + _WIDEST, minlength=2 * _WIDEST + 1),
        **times,
        "velocity": counted["velocity"],
        "polyphony": _polyphony(notes),
    }
    return {name: _shares(counts[None]) for name, counts in counts_of.items()} | {"structure": _structure(notes)}


class Reference:
    """Counts of real excerpts, which others are compared with."""

    def __init__(self, excerpts: Sequence[Notes]):
        self.excerpts = len(excerpts)
        counted = [features(notes) for notes in excerpts]
        self._features = {name: np.stack([each[name] for each in counted]) for name in QUANTITIES}
        others = ~np.eye(len(excerpts), dtype=bool)
        self._inner_distances = {name: distances(shares, shares)[others] for name, shares in self._features.items()}
        values = {name: [number(notes) for notes in excerpts] for name, number in NUMBERS.items()}
        self.limits = {name: tuple(np.percentile(some, [1, 50, 99])) for name, some in values.items()}

    def compare(self, excerpts: Sequence[Notes]) -> dict[str, float]:
        """Compare other excerpts with these.

        Returns:
            {"together overlap pitch": …, "apart kl structure": …}; the mean over all quantities as "… mean"; for each
            of NUMBERS its "median", and as "outside" the share of excerpts outside its 1st to 99th percentile here.
        """
        counted = [features(notes) for notes in excerpts]
        figures: dict[str, float] = {}
        for name in QUANTITIES:
            shares = np.stack([each[name] for each in counted])
            pairs = {
                "together": (_pooled(self._features[name]), _pooled(shares)),
                "apart": _densities(self._inner_distances[name], distances(shares, self._features[name]).ravel()),
            }
            for view, (real, other) in pairs.items():
                figures[f"{view} overlap {name}"] = overlap(real, other)
                figures[f"{view} kl {name}"] = divergence(real, other)
        for kind in ("together overlap", "together kl", "apart overlap", "apart kl"):
            figures[f"{kind} mean"] = float(np.mean([figures[f"{kind} {name}"] for name in QUANTITIES]))
        for name, number in NUMBERS.items():
            values = np.array([number(notes) for notes in excerpts])
            low, _, high = self.limits[name]
            figures[f"outside {name}"] = float(np.mean((values < low) | (values > high)))
            figures[f"median {name}"] = float(np.median(values))
        return figures


def overlap(p: np.ndarray, q: np.ndarray) -> float:
    """Compute the area below both of two distributions [parts, bins], the mean over the parts; 1: they are equal."""
    return float(np.minimum(p, q).sum(-1).mean())


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Compute KL(p ‖ q) of distributions [parts, bins] in nats, the mean over the parts."""
    p, q = (_UNIFORM / each.shape[-1] + (1 - _UNIFORM) * each for each in (p, q))
    return float((p * np.log(p / q)).sum(-1).mean())


def distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute earth mover's distances, in bins, of each to each: [n, parts, bins], [m, parts, bins] → float64 [n, m].

    A distance is the mean over the parts that both have, NaN where they have none in common.
    """
    some, others = (np.cumsum(each, axis=-1) for each in (some, others))
    moved = np.stack([np.abs(one[None] - others).sum(-1) for one in some])  # (n, m, parts)
    present = ~np.isnan(moved)
    with np.errstate(invalid="ignore"):
        return np.where(present, moved, 0.0).sum(-1) / present.sum(-1)


# --- single numbers ----------------------------------------------------------------------------------------------


def loop(notes: Notes) -> float:
    """Count the notes of the longest passage that repeats its pitches at once: they come twice or more in a row."""
    pitches, longest = notes["pitch"], 0
    for size in range(1, min(_LONGEST_LOOP, len(pitches) // 2) + 1):
        differs = np.flatnonzero(pitches[size:] != pitches[:-size])
        repeated = int(np.diff(np.concatenate([[-1], differs, [len(pitches) - size]])).max()) - 1
        if repeated >= size:
            longest = max(longest, repeated + size)
    return longest


def _notes_at_once(notes: Notes) -> float:
    """Compute how many notes sound at once, the mean over time."""
    return float(np.sum(notes["end"] - notes["start"]) / (notes["end"].max() - notes["start"].min()))


def _notes_a_second(notes: Notes) -> float:
    """Compute how many notes begin in a second."""
    return float((len(notes) - 1) / max(notes["start"][-1] - notes["start"][0], 0.01))


NUMBERS = {
    "distinct pitches": lambda notes: float(len(np.unique(notes["pitch"]))),
    "notes at once": _notes_at_once,
    "share of repeated notes": lambda notes: float(np.mean(notes["pitch"][1:] == notes["pitch"][:-1])),
    "median step, s": lambda notes: float(np.median(np.diff(notes["start"]))),
    "notes a second": _notes_a_second,
    "longest loop, notes": loop,
}


# --- counting ----------------------------------------------------------------------------------------------------


def _polyphony(notes: Notes) -> np.ndarray:
    """Compute for how many seconds so many notes sound, from the first onset to the last: float64 [_DENSEST + 1]."""
    times = np.concatenate([notes["start"], notes["end"]])
    order = np.argsort(times, kind="stable")
    sounding = np.cumsum(np.repeat([1, -1], len(notes))[order])
    inside = np.clip(times[order], notes["start"][0], notes["start"][-1])
    return np.bincount(np.clip(sounding[:-1], 0, _DENSEST), np.diff(inside), _DENSEST + 1)


def _structure(notes: Notes) -> np.ndarray:
    """Count the cosines of pitch-class profiles, a distribution for each lag: float64 [lags, _COSINE_BINS]."""
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
        bins = np.minimum((cosine * _COSINE_BINS).astype(int), _COSINE_BINS - 1)
        parts.append(np.bincount(bins, minlength=_COSINE_BINS))
    return _shares(np.array(parts))


def _shares(counts: np.ndarray) -> np.ndarray:
    """Turn counts [parts, bins] into a distribution each, NaN where nothing was counted."""
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(-1, keepdims=True)


def _pooled(shares: np.ndarray) -> np.ndarray:
    """Average the distributions of the excerpts that have one: [n, parts, bins] → [parts, bins]."""
    present = ~np.isnan(shares[:, :, :1])
    total = np.where(present, shares, 0.0).sum(0)
    return total / np.maximum(present.sum(0), 1)


def _densities(real: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn two sets of distances into kernel densities on one grid, [1, _GRID] each, summing to 1."""
    real, other = (each[~np.isnan(each)] for each in (real, other))
    edges = np.linspace(0, 1.05 * max(real.max(initial=1e-9), other.max(initial=1e-9)), _GRID + 1)
    return _density(real, edges), _density(other, edges)


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Smooth distances with a Gaussian kernel of Scott's width, mirrored at 0 as no distance is below."""
    width = max(float(values.std()) * len(values) ** -0.2 / (edges[1] - edges[0]), 0.5) if len(values) else 1.0  # bins
    counts = np.histogram(values, edges)[0]
    radius = min(int(4 * width) + 1, _GRID)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    smoothed = np.convolve(np.concatenate([counts[::-1], counts]), kernel, "same")[_GRID:]
    return (smoothed / max(smoothed.sum(), 1e-300))[None]
