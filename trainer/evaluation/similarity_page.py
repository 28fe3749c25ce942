"""A similarity report → a folder: index.html, listen.json, and some pieces as pictures, MP3 and MIDI.

The page is plain HTML: no script, nothing from another host, light or dark as the reader's browser is set.
"""

import html
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from music import audio, midi, storage
from music import notes as nt
from music.analysis import similarity, statistics
from music.errors import MissingDependency
from music.notes import Notes
from music.plots import charts
from music.plots.piano_roll import piano_roll
from trainer.evaluation import similarity_report
from trainer.evaluation.similarity_report import CEILING, FLOOR, KINDS, Material, Plan, Result

_TITLES = {"continued": "Continuations of the same seeds", "new": "New pieces"}
_MEANS = ("together overlap mean", "together kl mean", "apart overlap mean", "apart kl mean")
_STYLE = """
:root { color-scheme: light dark; --ink: #23272e; --paper: #fff; --line: #d5d9e0; --quiet: #5b6370; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --paper: #16191d; --line: #3a404a; --quiet: #a2aab6; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { text-align: right; padding: .25rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
caption { text-align: left; color: var(--quiet); white-space: nowrap; }
small, figcaption { color: var(--quiet); } figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; } audio { width: 100%; max-width: 30rem; }
"""


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    model: str
    data: str
    plan: Plan
    material: Material
    results: dict[str, Result]  # by name: real music, each way of drawing, noise
    noise: list[Notes]  # some excerpts of it

    @property
    def settings(self) -> list[str]:
        """List the names of the settings that the model played with."""
        return [name for name in self.results if name not in (CEILING, FLOOR)]


def write(report: Report, folder: str, pieces: int, log: Callable[[str], object]) -> None:
    """Write the folder. Without FluidSynth there is no sound, and the page says so."""
    storage.write(storage.join(folder, "listen.json"), json.dumps(facts(report), indent=1).encode())
    first, material = report.results[report.settings[0]], report.material
    real = [notes for turn in material.real["continued"] for notes in turn]
    played = [
        similarity_report.cut(piece.notes, "continued", material, k, report.plan)
        for turn in first.pieces["continued"]
        for k, piece in enumerate(turn)
    ]
    sets = {CEILING: real, "the model": played, FLOOR: report.noise}
    counted = {name: statistics.of(some) for name, some in sets.items() if any(map(len, some))}
    charts.distributions(counted, storage.join(folder, "distributions.svg"))
    silent = None
    try:
        audio.check()
    except MissingDependency as error:
        silent = str(error)
        log(f"no MP3s: {error}")
    shown = [_show(folder, *piece, sound=silent is None) for piece in _chosen(report, pieces)]
    storage.write(storage.join(folder, "index.html"), page(report, shown, silent).encode())


def facts(report: Report) -> dict:
    """Collect the figures for programs: each is a list of one number a round."""
    first = report.results[report.settings[0]]
    plan = report.plan
    return {
        "model": report.model,
        "data": report.data,
        "seeds": plan.seeds,
        "rounds": [plan.first + turn for turn in range(plan.rounds)],
        "seconds": plan.seconds,
        "reference": {kind: report.material.reference[kind].excerpts for kind in KINDS},
        "limits": {kind: report.material.reference[kind].limits for kind in KINDS},
        "figures": {name: result.figures for name, result in report.results.items()},
        "endings": similarity_report.endings(
            [p for turn in first.pieces["new"] for p in turn], report.material.lengths, plan.minutes
        ),
    }


def lines(report: Report) -> Iterator[str]:
    """Format the most important figures for a terminal."""
    for kind in KINDS:
        yield f"{_TITLES[kind]}: overlap and KL together, overlap and KL apart, ended by itself"
        for name, result in report.results.items():
            cells = [_figure(result, kind, each) for each in (*_MEANS, "ended")]
            yield f"  {name:44} {'  '.join(f'{cell:>14}' for cell in cells)}"
    for minutes, new, real in facts(report)["endings"]:
        yield f"over after {minutes:g} minutes: {new:.0%} of the new pieces, {real:.0%} of the real ones"


def page(report: Report, shown: Sequence[str], silent: str | None) -> str:
    """Write the page. `shown`: what `_show` returned for each piece; `silent`: why there is no sound, if so."""
    plan = report.plan
    parts = [
        f"<h1>Listening to {_safe(report.model)}</h1>",
        f"<p>{plan.seeds} seeds of {similarity_report.SEED_NOTES} notes from {_safe(report.data)}, continued for "
        f"{plan.seconds:g} seconds, and as many new pieces, with {plan.rounds} random seeds each. Real music is "
        f"rounded as the model rounds it. <em>{CEILING}</em> is compared with other real music, and is what can "
        f"be reached; <em>{FLOOR}</em> are notes drawn one by one from the training set's own distributions, so "
        "of single notes it is right on average. ± is the standard deviation of one random seed.</p>",
        "<p><em>Together</em>: all notes as one distribution, overlap area (1 is the same) and KL(real ‖ other) in "
        "nats. <em>Apart</em>: distances among real excerpts beside distances from the others to them (Yang and Lerch "
        "2020).</p>",
        *(_quantities(report, kind) for kind in KINDS),
        *((_settings(report, kind) for kind in KINDS) if len(report.settings) > 1 else ()),
        *(_numbers(report, kind) for kind in KINDS),
        _endings(report),
        '<figure><img src="distributions.svg" alt="Distributions of pitch, velocity, step and duration">'
        "<figcaption>Continuations beside real music and noise</figcaption></figure>",
        "<h2>Pieces</h2><p>The first ones, not picked.</p>",
        f"<p>Without sound: {_safe(silent)}</p>" if silent else "",
        *shown,
    ]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_safe(report.model)}</title>'
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n'


def _quantities(report: Report, kind: str) -> str:
    """Write a table for each view: the first settings between floor and ceiling, quantity by quantity."""
    names = {FLOOR: "noise", report.settings[0]: "model", CEILING: "real"}
    heads = ["", *(f"{measure}: {short}" for measure in ("overlap", "KL") for short in names.values())]
    tables = []
    for view in ("together", "apart"):
        rows = [
            [
                each,
                *(
                    _figure(report.results[name], kind, f"{view} {what} {each}")
                    for what in ("overlap", "kl")
                    for name in names
                ),
            ]
            for each in (*similarity.QUANTITIES, "mean")
        ]
        tables.append(_table(f"{view}; {report.settings[0]}", heads, rows))
    return f"<h2>{_TITLES[kind]}</h2>" + "".join(tables)


def _settings(report: Report, kind: str) -> str:
    """Write a table of all settings, and how much better each is than the first."""
    base = report.results[report.settings[0]].figures
    rows = []
    for name, result in report.results.items():
        row = [name, *(_figure(result, kind, each) for each in (*_MEANS, "median notes a second", "ended"))]
        compared = result.pieces and all(_MEANS[0] in each[kind] for each in (result.figures, base))
        gains = (
            [similarity_report.gain(result.figures, base, kind, each) for each in (_MEANS[0], _MEANS[2])]
            if compared
            else []
        )
        rows.append(row + [_plus(*each) for each in gains] + [""] * (2 - len(gains)))
    heads = ["", *_MEANS, "notes a second", "ended", "gain together", "gain apart"]
    return f"<h2>{_TITLES[kind]}: ways of drawing</h2>" + _table("Means over the seven quantities", heads, rows)


def _numbers(report: Report, kind: str) -> str:
    """Write a table of single numbers of an excerpt beside those of real ones."""
    limits, result = report.material.reference[kind].limits, report.results[report.settings[0]]
    rows = [
        [
            each,
            *(f"{value:.3g}" for value in limits[each]),
            _figure(result, kind, f"median {each}"),
            _figure(result, kind, f"outside {each}"),
        ]
        for each in similarity.NUMBERS
    ]
    heads = ["", "real: 1st percentile", "median", "99th", "model: median", "share outside"]
    return _table(f"{_TITLES[kind]}: an excerpt's single numbers", heads, rows)


def _endings(report: Report) -> str:
    rows = [[f"{minutes:g} min", f"{new:.0%}", f"{real:.0%}"] for minutes, new, real in facts(report)["endings"]]
    turns = report.results[report.settings[0]].pieces["new"]
    caption = f"Of {sum(map(len, turns))} new pieces, and of {len(report.material.lengths)} real ones, are over after"
    return "<h2>How pieces end</h2>" + _table(caption, ["", "new", "real"], rows)


def _figure(result: Result, kind: str, name: str) -> str:
    values = result.figures[kind].get(name)
    if values is None:
        return "–"
    mean, deviation = similarity_report.mean_and_deviation(values)
    return f"{mean:.3f}" + ("" if np.isnan(deviation) else f" ± {deviation:.3f}")


def _plus(mean: float, deviation: float) -> str:
    return f"{mean:+.3f}" + ("" if np.isnan(deviation) else f" ± {deviation:.3f}")


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{_safe(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_safe(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><caption>{_safe(caption)}</caption>\n<tr>{top}</tr>\n{body}</table></div>'


def _chosen(report: Report, pieces: int) -> Iterator[tuple[str, str, dict[str, Notes]]]:
    """List the first pieces of the first settings and round: (file's name, title, parts)."""
    result, material, plan = report.results[report.settings[0]], report.material, report.plan
    for k, seed in enumerate(material.seeds[:pieces]):
        after = float(seed["start"][-1])
        played = similarity_report.cut(result.pieces["continued"][0][k].notes, "continued", material, k, plan)
        yield f"continued-{k + 1}", f"Seed {k + 1}, continued", {"seed": seed, "continuation": nt.shift(played, after)}
        real = nt.shift(material.follows[k], after)
        yield f"real-{k + 1}", f"Seed {k + 1}, what really follows", {"seed": seed, "real": real}
    for k, piece in enumerate(result.pieces["new"][0][:pieces]):
        yield (
            f"new-{k + 1}",
            f"New piece {k + 1}",
            {"new": similarity_report.cut(piece.notes, "new", material, k, plan)},
        )


def _show(folder: str, file: str, title: str, parts: dict[str, Notes], sound: bool) -> str:
    """Write one piece's files. Return its part of the page."""
    notes = nt.sort(np.concatenate(list(parts.values())))
    storage.write(storage.join(folder, f"{file}.mid"), midi.write(notes))
    piano_roll(parts if len(parts) > 1 else notes, storage.join(folder, f"{file}.png"))
    player = ""
    if sound:
        out = io.BytesIO()
        audio.write(notes, out, "mp3")
        storage.write(storage.join(folder, f"{file}.mp3"), out.getvalue())
        player = f'<p><audio controls preload="none" src="{file}.mp3"></audio></p>'
    caption = f'{_safe(title)}: {len(notes)} notes, {nt.length(notes):.0f} s · <a href="{file}.mid">MIDI</a>'
    roll = f'<img loading="lazy" src="{file}.png" alt="Piano roll of {_safe(title)}">'
    return f"<figure><figcaption>{caption}</figcaption>{player}{roll}</figure>"


def _safe(text: str) -> str:
    return html.escape(text)
