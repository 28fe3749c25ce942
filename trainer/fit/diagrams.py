"""A model → a table and a diagram of it; generated and real music → a picture of both. For people: no run reads them.

The table finds layers among a model's attributes, so it shows new ones without a change here. The diagram has words
of its own for the inputs, cores and heads that exist.
"""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import keras
import numpy as np

from music.analysis import statistics
from music.encodings.columns import FIRST
from music.notes import Notes
from music.plots import charts, style
from music.plots.style import COLOURS, INK, words
from trainer.model import EventModel
from trainer.model.heads import ChainHeads, RegressionHeads
from trainer.model.inputs import Embedded, OneHot, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def compare(generated: Notes | Sequence[Notes], real: Notes | Sequence[Notes], path: str | os.PathLike) -> None:
    """Draw how pitch, velocity, step and duration are distributed in generated music, beside real music.

    Args:
        generated, real: a piece each, or several. Raises MusicError where there are no notes.
    """
    sets = {"real": real, "generated": generated}
    pieces = {name: [some] if isinstance(some, np.ndarray) else list(some) for name, some in sets.items()}
    charts.distributions({name: statistics.of(some) for name, some in pieces.items()}, path)


# --- the table ---------------------------------------------------------------------------------------------------


def summary(model: EventModel) -> str:
    """Write a table of a model's layers: name, kind, output for B pieces of T rows, parameters; and their total."""
    rows = list(_rows(model, 0))
    width, kind = (max(len(row[k]) for row in rows) for k in (0, 1))
    lines = [f"{name:{width}}  {what:{kind}}  {shape:<13} {count:>12}" for name, what, shape, count in rows]
    head = f"{'layer':{width}}  {'kind':{kind}}  {'output':<13} {'parameters':>12}"
    total = model.count_params()
    fixed = total - sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    footer = f"{total:,} parameters, {total * 4 / 1e6:.1f} MB as float32" + (f"; {fixed:,} not trained" * (fixed > 0))
    return "\n".join([head, "-" * len(head), *lines, "-" * len(head), footer]) + "\n"


def _rows(layer, depth: int) -> Iterator[tuple[str, str, str, str]]:
    """Yield a line for each layer inside a layer, deeper ones indented; Keras' own layers are not opened."""
    inside = list(_sublayers(layer))
    for each in inside:
        own = type(each).__module__.startswith("keras.")
        yield "  " * depth + each.name, _kind(each), _shape(each), f"{each.count_params():,}" if own else ""
        if not own:
            yield from _rows(each, depth + 1)
    rest = layer.count_params() - sum(each.count_params() for each in inside)
    if rest:
        yield "  " * depth + "(its own)", "", "", f"{rest:,}"


def _sublayers(layer) -> Iterator[keras.layers.Layer]:
    """Yield the layers among a layer's attributes, in lists and dicts too, in the order of assignment."""
    for name, value in vars(layer).items():
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        if not name.startswith("_"):
            yield from (each for each in values if isinstance(each, keras.layers.Layer))


def _kind(layer) -> str:
    kind = type(layer).__name__
    return f"{kind} {layer.rate:g}" if isinstance(layer, keras.layers.Dropout) else kind


def _shape(layer) -> str:
    """Format the shape of a layer's output, where its width can be read."""
    widths = [getattr(layer, name) for name in ("units", "output_dim", "width") if hasattr(layer, name)]
    width = widths[0] if widths else layer.weights[0].shape[-1] if layer.weights else None
    return f"(B, T, {width})" if width and layer.name != "heads" else ""


# --- the diagram -------------------------------------------------------------------------------------------------

_BOX_WIDTH, _GAP, _BETWEEN = 1.72, 0.5, 0.24  # inches: a box, and what is beside and below it
_LINE, _PAD, _LOOP = 0.2, 0.12, 0.62  # inches: a line of text, around a box's text, the room for a memory's loop
_TINTS = {"row": INK, "input": COLOURS[5], "memory": COLOURS[0], "dense": COLOURS[2], "head": COLOURS[1]}


class _Box(NamedTuple):
    """One box of a diagram: its kind, its lines of text, and the contents of its memory, if it has one."""

    kind: str
    title: str
    lines: tuple[str, ...] = ()
    memory: str = ""

    @property
    def height(self) -> float:
        """Compute its height, in inches."""
        return _LINE * (1 + len(self.lines)) + 2 * _PAD


def diagram(model: EventModel, card: dict, path: str | os.PathLike) -> None:
    """Draw a model from a row of music to the next one, from left to right, with the state of each layer.

    Args:
        card: its `recipe` and `about` are the title.
        path: the picture to write.
    """
    names, sizes = model.encoding.names, model.encoding.sizes
    row = [_Box("row", name, (f"{size - FIRST:,} values",)) for name, size in zip(names, sizes, strict=True)]
    chained = isinstance(model.heads, ChainHeads)
    stages = [row, [_input(model)], *([box] for box in _core(model)), _heads(model)]
    height = max(max(_height(stage), stage[0].height + 2 * _LOOP if stage[0].memory else 0) for stage in stages)
    width = len(stages) * (_BOX_WIDTH + _GAP) + _GAP
    low = -max(map(_height, stages)) / 2 - 0.45  # of the line from the drawn row back to the input
    figure, axes = style.canvas((0, width), (low - 0.35, height / 2 + 1.0))
    title = f"{card['recipe']}: {model.count_params():,} parameters"
    axes.text(_GAP, height / 2 + 0.75, words(title), fontsize=13, color=INK)
    axes.text(_GAP, height / 2 + 0.5, words(style.clip(card.get("about", ""), int(width * 12))), fontsize=9, color=INK)
    for number, stage in enumerate(stages):
        left = _GAP + number * (_BOX_WIDTH + _GAP)
        _draw_boxes(axes, stage, left, chained and number == len(stages) - 1)
        if number:
            _arrow(axes, (left - _GAP + 0.1 * (number == 1), 0), (left - 0.1 * (stage is stages[-1]), 0))
    _frame(axes, "the last row", _GAP, _height(stages[0]))
    _frame(axes, "the next row", width - _GAP - _BOX_WIDTH, _height(stages[-1]))
    _draw_feedback(axes, width, _height(stages[0]) / 2, _height(stages[-1]) / 2, low)
    style.save(figure, path)


def _input(model: EventModel) -> _Box:
    """Describe the core's input."""
    layer = model.inputs_
    if isinstance(layer, Embedded):
        held = ("held notes",) if layer.tables else ()
        each = f"{len(layer.embeddings)} × {layer.embeddings[0].output_dim}"
        return _Box("input", "embedding", (each, *held, f"Dense {layer.width}", _parameters(layer)))
    if isinstance(layer, OneHot):
        return _Box("input", "one-hot", (f"{layer.width:,} wide",))
    if isinstance(layer, Values):
        return _Box("input", "values", (f"{layer.width} number{'s' * (layer.width > 1)}", "times in seconds"))
    return _Box("input", type(layer).__name__, (_parameters(layer),))


def _core(model: EventModel) -> list[_Box]:
    """Describe the core, a box a layer."""
    core = model.core
    if not hasattr(core, "lstms"):
        return [_Box("memory", type(core).__name__, (f"{core.units} wide", _parameters(core)), "state")]
    residual = ("residual, normed",) if hasattr(core, "norms") else ()
    dropout = (f"dropout {core.dropout.rate:g}",) if core.dropout.rate else ()
    boxes = [
        _Box("memory", f"LSTM {lstm.units}", (*residual, *dropout, _parameters(lstm)), f"h, c: 2 × {lstm.units}")
        for lstm in core.lstms
    ]
    return boxes + [
        _Box("dense", f"Dense {dense.units}", ("ReLU", _parameters(dense))) for dense in getattr(core, "dense", [])
    ]


def _heads(model: EventModel) -> list[_Box]:
    """Describe how each column is drawn, a box a column."""
    heads, boxes = model.heads, []
    for k, (name, size) in enumerate(zip(model.encoding.names, model.encoding.sizes, strict=True)):
        lines: tuple[str, ...] = (f"softmax: {size - FIRST:,}{'' if k else ' and the end'}",)
        if isinstance(heads, RegressionHeads) and k:
            lines = ("a number: regression",)
        if isinstance(heads, ChainHeads) and name == "duration":
            lines = (*lines, "or ends with one of", f"the last {heads.slots} notes")
        boxes.append(_Box("head", name, lines))
    boxes[-1] = boxes[-1]._replace(lines=(*boxes[-1].lines, f"heads: {_parameters(heads)}"))
    return boxes


def _parameters(layer) -> str:
    count = layer.count_params()
    return f"{count / 1e6:.1f} M parameters" if count >= 1e6 else f"{count:,} parameters"


def _draw_boxes(axes: "Axes", boxes: list[_Box], left: float, chained: bool) -> None:
    """Draw boxes below each other, their middle at 0; in a chain with arrows from each to the next."""
    from matplotlib.patches import FancyBboxPatch

    top = _height(boxes) / 2
    for number, box in enumerate(boxes):
        low, colour = top - box.height, _TINTS[box.kind]
        axes.add_patch(
            FancyBboxPatch(
                (left, low), _BOX_WIDTH, box.height, boxstyle="round,pad=0,rounding_size=0.08", edgecolor=colour,
                facecolor=[*_rgb(colour), 0.18], linewidth=1.4,
            )
        )  # fmt: skip
        middle = left + _BOX_WIDTH / 2
        for line, text in enumerate((box.title, *box.lines)):
            at = top - _PAD - _LINE * (line + 0.5)
            size, weight = (8, "normal") if line else (11, "bold")
            axes.text(middle, at, words(text), ha="center", va="center", color=INK, fontsize=size, weight=weight)
        if box.memory:
            _arrow(axes, (middle + 0.45, top), (middle - 0.45, top), curvature=0.8)
            axes.text(middle, top + 0.4, box.memory, ha="center", va="bottom", fontsize=8, color=INK)
        if chained and number:
            _arrow(axes, (middle, top + _BETWEEN), (middle, top))
        top = low - _BETWEEN


def _height(boxes: list[_Box]) -> float:
    return sum(box.height for box in boxes) + _BETWEEN * (len(boxes) - 1)


def _frame(axes: "Axes", caption: str, left: float, height: float) -> None:
    """Draw a frame around the columns of a row."""
    from matplotlib.patches import FancyBboxPatch

    corner, rounded = (left - 0.1, -height / 2 - 0.1), "round,pad=0,rounding_size=0.12"
    frame = FancyBboxPatch(corner, _BOX_WIDTH + 0.2, height + 0.2, rounded)
    frame.set(edgecolor=INK, facecolor="none", linewidth=0.8, linestyle=":")
    axes.add_patch(frame)
    axes.text(left + _BOX_WIDTH / 2, height / 2 + 0.14, caption, ha="center", va="bottom", fontsize=9, color=INK)


def _draw_feedback(axes: "Axes", width: float, first: float, last: float, low: float) -> None:
    """Draw the arrow from the last frame's lower edge back to the first one's: the drawn row is the next input."""
    right, left = width - _GAP - _BOX_WIDTH / 2, _GAP + _BOX_WIDTH / 2
    axes.plot([right, right, left], [-last - 0.1, low, low], color=INK, linewidth=1.2)
    _arrow(axes, (left, low), (left, -first - 0.1))
    caption = "the drawn row is the next input"
    axes.text(width / 2, low - 0.06, caption, ha="center", va="top", fontsize=9, color=INK)


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float], curvature: float = 0.0) -> None:
    from matplotlib.patches import FancyArrowPatch

    style = f"arc3,rad={curvature}"
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, color=INK, connectionstyle=style, shrinkA=0, shrinkB=1
        )
    )


def _rgb(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
