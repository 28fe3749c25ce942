"""What all pictures share: colours, plain axes, and a figure → PNG, SVG or PDF.

matplotlib is imported when a picture is drawn, without pyplot: nothing is global and no display is needed. The colours
are those of Okabe and Ito 2008, which colour-blind readers can distinguish; for grey print there is also a dash or an
outline.
"""

import io
import os
import warnings
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from music import storage
from music.errors import MusicError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE = "#3b3f46", "#e6e8ec"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
FORMATS = (".png", ".svg", ".pdf")
_DPI = 120


def check(path: str | os.PathLike) -> str:
    """Read the format from a path's ending. Raises MusicError, which names the formats."""
    ending = PurePath(path).suffix.lower()
    if ending not in FORMATS:
        raise MusicError(f"{path}: expected a name that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    return ending[1:]


def figure(wide: float, tall: float) -> "Figure":
    """Make an empty figure; width and height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(wide, tall), dpi=_DPI, layout="constrained")


def canvas(x: tuple[float, float], y: tuple[float, float]) -> "tuple[Figure, Axes]":
    """Make an empty figure whose coordinates are inches, with the given limits."""
    blank = figure(x[1] - x[0], y[1] - y[0])
    blank.set_layout_engine("none")
    axes = blank.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=x, ylim=y)
    axes.set_axis_off()
    return blank, axes


def plain(axes: "Axes") -> None:
    """Hide the upper and right line of the axes, and the ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, length=0)


def words(text: str) -> str:
    """Escape text for matplotlib: a $ begins no formula, and a leading _ hides no entry of a legend."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def clip(text: str, letters: int = 28) -> str:
    """Shorten a name to so many letters."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


def save(drawn: "Figure", path: str | os.PathLike) -> None:
    """Write a figure in the format of the path's ending. Raises MusicError for an unknown one."""
    import matplotlib

    kind, out = check(path), io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    # An SVG's text stays text, which can be searched and selected; and the same picture has the same bytes.
    style = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cadenza"})
    with style, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters of a name that the font lacks become boxes
        drawn.savefig(out, format=kind, metadata=dates.get(kind))
    storage.write(path, out.getvalue())
