"""Controls: what a listener may ask of a piece, as numbers that a model's state carries. Knows no model and no HTTP.

    style      a composer among those that the model knows
    density    notes a second
    loudness   mean velocity, 1 to 127
    remaining  seconds until the last note of the piece begins

The state holds one number for each; 0 stands for "not asked". A style, a density and a loudness are the number of a
class, from 1 on. `remaining` is 1 + the cells of 10 ms that are left; the model counts it down.
"""

import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

from music.encodings.columns import CELL
from music.errors import SettingError

NAMES = ("style", "density", "loudness", "remaining")
RING = 2.4  # seconds from the last onset to the end of its sound, the median of MAESTRO's training pieces
STATE = "controls"  # the name of their tensor in the state, float32 [B, 4]


@dataclass(frozen=True)
class Controls:
    """The classes of a model's controls.

    Args:
        use: whether the model has controls at all.
        styles: composers.
        density: notes a second of each class, rising.
        loudness: mean velocity of each class, rising.
    """

    use: bool = False
    styles: tuple[str, ...] = ()
    density: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 30.0)
    loudness: tuple[float, ...] = (30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 100.0)

    @classmethod
    def from_card(cls, values: dict[str, Any]) -> "Controls":
        """Read the controls of a card, where tuples are lists. Raises TypeError where they are no controls."""
        read: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**read)

    def style_class(self, style: str) -> int:
        """Find a style's class by a part of its name; case and accents are ignored.

        Raises SettingError where no style, or more than one, has that part; the message lists the styles.
        """
        names = [_plain(name) for name in self.styles]
        asked = _plain(style)
        matching = [asked] if asked in names else [name for name in names if asked and asked in name]
        if len(matching) != 1:
            raise SettingError(f"style: expected one of {', '.join(self.styles)}; got {style!r:.50}")
        return 1 + names.index(matching[0])

    def number_class(self, name: str, value: float) -> int:
        """Find the class of a density or a loudness, the nearest one.

        Raises SettingError where the value is below the lowest class or above the highest one.
        """
        values = getattr(self, name)
        if not values[0] <= value <= values[-1]:
            raise SettingError(f"{name}: expected {values[0]:g} to {values[-1]:g}, got {value:g}")
        return int(nearest(values, np.array([value]))[0])


def nearest(values: tuple[float, ...], numbers: np.ndarray) -> np.ndarray:
    """Return the class of each number, from 1 on: that of the nearest of `values`."""
    return 1 + np.abs(np.asarray(values) - np.asarray(numbers)[:, None]).argmin(axis=1)


def to_cells(seconds) -> np.ndarray:
    """Convert seconds that remain to the state's number: 1 + the cells, at least 1."""
    return 1 + np.maximum(np.round(np.asarray(seconds) / CELL), 0)


def _plain(text: str) -> str:
    """Fold case and leave out accents."""
    letters = unicodedata.normalize("NFKD", text.strip().casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
