"""A Recipe: one named experiment as frozen dataclasses, to and from a card. Knows nothing of Keras, files or music."""

import ast
import importlib
import pkgutil
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace

from music import encodings
from music.controls import Controls
from music.encodings import Encoding
from music.errors import SettingError
from trainer import recipes


class RecipeError(SettingError):
    """A recipe, or one of its values, that does not exist or makes no sense."""


def _check(spec, **least) -> None:
    """Raise RecipeError for a number below its least value, or a dropout of 1 or more."""
    if not getattr(spec, "dropout", 0) < 1:
        raise RecipeError(f"{type(spec).__name__.lower()}.dropout: expected less than 1, got {spec.dropout}")
    for name, low in least.items():
        if not getattr(spec, name) >= low:
            raise RecipeError(
                f"{type(spec).__name__.lower()}.{name}: expected {low} or more, got {getattr(spec, name)}"
            )


@dataclass(frozen=True)
class LSTM:
    """A residual stack of LSTM layers with dropout behind each; `units` sets the model's size.

    ordered: each column enters also as a quantity from 0 to 1, beside its embedding. attention: blocks of attention
    behind the LSTM see this many notes back; 0: there are none. blocks: how many there are then.
    """

    units: int = 512
    layers: int = 3
    dropout: float = 0.1
    ordered: bool = False
    attention: int = 0
    blocks: int = 1

    def __post_init__(self):
        _check(self, units=1, layers=1, dropout=0, attention=0, blocks=1)


@dataclass(frozen=True)
class Transformer:
    """Blocks of attention over the last `notes` notes, and nothing else; `units` sets the model's size."""

    units: int = 256
    layers: int = 6
    notes: int = 256
    dropout: float = 0.1
    ordered: bool = True

    def __post_init__(self):
        _check(self, units=1, layers=1, notes=1, dropout=0)


@dataclass(frozen=True)
class Stack:
    """LSTM layers of these widths one after the other, dropout behind each, then dense layers (ReLU).

    `input`: "embedding", "one_hot", or "values": each column as one number.
    """

    units: tuple[int, ...] = (256, 256)
    dense: tuple[int, ...] = ()
    dropout: float = 0.2
    input: str = "one_hot"

    def __post_init__(self):
        _check(self, dropout=0)
        if not (self.units and all(width >= 1 for width in (*self.units, *self.dense))):
            raise RecipeError(f"stack: expected widths of 1 or more, got {self.units} and {self.dense}")
        if self.input not in ("embedding", "one_hot", "values"):
            raise RecipeError(f"stack.input: expected embedding, one_hot or values, got {self.input!r}")


@dataclass(frozen=True)
class Chain:
    """One head for each column; each head reads the columns before it.

    hidden: units of a head. slots: the heads read of this many last notes how long each still sounds. recall: the
    pitch's repetition pointer searches this many notes back; 0: there is no pointer.
    """

    hidden: int = 256
    slots: int = 12
    dropout: float = 0.1
    recall: int = 0

    def __post_init__(self):
        _check(self, hidden=1, slots=1, dropout=0, recall=0)
        if 0 < self.recall < 32:
            raise RecipeError(f"chain.recall: expected 0, or 32 notes or more, got {self.recall}")


@dataclass(frozen=True)
class Independent:
    """One softmax for each column; no head reads another column."""


@dataclass(frozen=True)
class Regression:
    """A softmax for the first column; one number for each other column, learned by mean squared error.

    `weights`: of each column in the loss. `pressure`: what a prediction below 0 adds to the loss, times its distance
    from 0.
    """

    weights: tuple[float, ...] = (0.05, 1.0, 1.0)
    pressure: float = 10.0

    def __post_init__(self):
        _check(self, pressure=0)


@dataclass(frozen=True)
class Training:
    """How to train. An epoch is `steps` batches, not a pass over the data; progress is written after each epoch."""

    window: int = 512  # notes
    batch: int = 32  # windows
    steps: int = 200  # batches an epoch
    epochs: int = 100
    rate: float = 1e-3  # the highest learning rate; rises for `warmup` steps, then falls as a cosine to `floor` of it
    warmup: int = 300
    floor: float = 0.02
    optimizer: str = "adamw"  # or "muon", whose rate is that of the matrices
    average: float = 0.0  # momentum of the weights' moving average, which is validated and stored; 0: no average
    decay: float = 0.01  # weight decay
    clip: float = 1.0  # the largest norm of the gradient
    transpose: tuple[int, int] = (-6, 5)  # semitones, both included; only what stays in the pitch range is drawn
    stretch: float = 0.05  # times are multiplied by a factor between 1 / (1 + this) and 1 + this
    louder: int = 8  # velocities are raised or lowered by up to this
    patience: int = 30  # epochs without a better validation before stopping
    keep: int = 10  # the weights of every k-th epoch are stored; 0: none
    validation: int = 128  # windows for the validation after each epoch; `evaluate` measures whole pieces
    seed: int = 1

    def __post_init__(self):
        _check(self, window=2, batch=1, steps=1, epochs=1, warmup=0, decay=0, stretch=0, louder=0)
        _check(self, patience=1, keep=0, validation=1, seed=0, average=0)
        if self.optimizer not in ("adamw", "muon"):
            raise RecipeError(f"training.optimizer: expected adamw or muon, got {self.optimizer!r}")
        if not self.average < 1:
            raise RecipeError(f"training.average: expected less than 1, got {self.average}")
        low, high = self.transpose if len(self.transpose) == 2 else (1, 0)
        if not (low <= 0 <= high):
            raise RecipeError(f"training.transpose: expected (lowest, highest) around 0, got {self.transpose}")
        if not (self.rate > 0 and self.clip > 0):
            raise RecipeError(f"training: expected rate and clip above 0, got {self.rate} and {self.clip}")


@dataclass(frozen=True)
class Recipe:
    """One experiment: a description, and every number of its encoding, model and training."""

    name: str
    about: str
    encoding: Encoding
    core: LSTM | Transformer | Stack
    heads: Chain | Independent | Regression
    training: Training = field(default_factory=Training)
    controls: Controls = field(default_factory=Controls)
    select: str = ""  # e.g. "composer=Bach"

    def __post_init__(self):
        if self.controls.use and not isinstance(self.heads, Chain):
            raise RecipeError("controls.use: expected heads of the kind chain, which count time")


def names() -> list[str]:
    """List the recipes in `trainer/recipes`."""
    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))


def load(name: str) -> Recipe:
    """Load the recipe `trainer/recipes/<name>.py`. If there is none, raise RecipeError, which lists the recipes."""
    if name not in names():
        raise RecipeError(f"recipe {name!r}: expected one of {', '.join(names())}")
    return importlib.import_module(f"trainer.recipes.{name}").RECIPE


def override(recipe: Recipe, setting: str) -> Recipe:
    """Return a recipe with one value changed, e.g. "training.batch=32". Raises RecipeError for a wrong name or type."""
    path, equals, text = setting.partition("=")
    if not equals:
        raise RecipeError(f"--set {setting!r}: expected name=value, such as training.batch=32")
    return _set(recipe, path.split("."), text, path)


def _set(node, path: list[str], text: str, name: str):
    """Return a dataclass with the value at `path` inside it changed; `name`, the full path, is for messages."""
    names = [f.name for f in fields(node)]
    if path[0] not in names:
        raise RecipeError(f"--set {name}: no such value; expected one of {', '.join(names)}")
    old = getattr(node, path[0])
    if len(path) > 1:
        if not is_dataclass(old):
            raise RecipeError(f"--set {name}: {path[0]} has no parts")
        return replace(node, **{path[0]: _set(old, path[1:], text, name)})
    return replace(node, **{path[0]: _parse(old, text, name)})


def _parse(old, text: str, name: str):
    """Parse a value of the type that the old one has."""
    if isinstance(old, str):
        return text
    try:
        new = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise RecipeError(f"--set {name}: cannot read {text!r} as {type(old).__name__}") from None
    if isinstance(old, float) and type(new) is int:
        new = float(new)
    if isinstance(old, tuple) and isinstance(new, tuple):
        kind = type(old[0]) if old else int
        new = tuple(kind(part) if kind is float and type(part) is int else part for part in new)
        if not all(type(part) is kind for part in new):
            raise RecipeError(f"--set {name}: expected {kind.__name__}s, got {text!r}")
    if type(new) is not type(old):
        raise RecipeError(f"--set {name}: expected {type(old).__name__}, got {text!r}")
    return new


def to_card(recipe: Recipe) -> dict:
    """Write a recipe as its part of a model's card."""
    return {
        "recipe": recipe.name,
        "about": recipe.about,
        "encoding": recipe.encoding.config(),
        "core": {"kind": type(recipe.core).__name__.lower(), **_without_defaults(asdict(recipe.core))},
        "heads": {"kind": type(recipe.heads).__name__.lower(), **_without_defaults(asdict(recipe.heads))},
        "training": _without_defaults(asdict(recipe.training)),
        "select": recipe.select,
        **({"controls": asdict(recipe.controls)} if recipe.controls.use else {}),
    }


_NEWER = {"recall": 0, "ordered": False, "average": 0, "attention": 0, "optimizer": "adamw"}  # and their defaults


def _without_defaults(values: dict) -> dict:
    """Leave out the newer settings that have their defaults, so that the cards of older runs stay the same."""
    if not values.get("attention"):
        values = {name: value for name, value in values.items() if name != "blocks"}
    return {name: value for name, value in values.items() if name not in _NEWER or value != _NEWER[name]}


def from_card(card: dict) -> Recipe:
    """Read the recipe of a card; a setting that an older card lacks has its default.

    Raises RecipeError for a kind of part that does not exist, or a number that makes no sense.
    """
    try:
        return Recipe(
            name=card["recipe"],
            about=card["about"],
            encoding=encodings.from_config(card["encoding"]),
            core=_spec((LSTM, Transformer, Stack), card["core"]),
            heads=_spec((Chain, Independent, Regression), card["heads"]),
            training=Training(**_tuples(card["training"])),
            controls=Controls.from_card(card.get("controls", {})),
            select=card.get("select", ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"a card that makes no recipe: {error!r}") from error


def _spec(kinds: tuple, values: dict):
    """Build the dataclass that a card's part names by its "kind"."""
    [kind] = [kind for kind in kinds if kind.__name__.lower() == values["kind"]] or [None]
    if kind is None:
        raise RecipeError(f"a card with {values['kind']!r}: expected {', '.join(k.__name__.lower() for k in kinds)}")
    return kind(**_tuples({name: value for name, value in values.items() if name != "kind"}))


def _tuples(values: dict) -> dict:
    """Turn lists into tuples: JSON has only lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
