"""Who may import whom: every import of the tree against the table of the design.

Direction: music ← {preprocessing, trainer, serving}, and nothing sideways. What stages share goes down into `music`,
or travels as files and over the wire.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
NOT_OURS = {"build", "data", "out", "runs"}  # as .gitignore says; and every hidden folder

# A path, or the beginning of one: what it may import besides the standard library. The longest path that fits counts.
# In parentheses: only inside a function (or for a type checker), so that importing the module stays cheap.
TABLE = {
    "cadenza.py": "numpy music (preprocessing) (serving) (trainer)",
    "music/__init__.py": "",
    "music/__main__.py": "music",
    "music/errors.py": "",
    "music/command_line.py": "music.errors",
    "music/notes.py": "numpy music.errors",
    "music/wire.py": "numpy google.protobuf google_crc32c music.errors",
    "music/pieces.py": "numpy google_crc32c music.errors music.notes music.storage music.wire",
    "music/controls.py": "numpy music.encodings.columns music.errors",
    "music/generation.py": "numpy music.analysis music.controls music.encodings music.errors music.notes music.storage",
    "music/model_folder.py": "numpy (tensorflow) music.errors music.generation music.storage",  # to load a SavedModel
    "music/flags.py": "music.errors music.generation music.midi music.notes music.storage",
    "music/midi/": "numpy pretty_midi (music21) music.errors music.midi music.notes",
    "music/encodings/": "numpy music.encodings music.errors music.notes",
    "music/storage/": "google_crc32c (google) (requests) (urllib3) music.errors music.storage",
    "music/notation/": "numpy (music21) (verovio) (typst) music.errors music.midi music.notation music.notes"
    " music.storage",
    "music/audio/": "numpy (fluidsynth) (soundfile) music.audio music.errors music.notes",
    "music/plots/": "numpy (matplotlib) music.analysis music.encodings music.errors music.flags music.midi music.notes"
    " music.plots music.storage",
    "music/analysis/": "numpy google_crc32c music.analysis music.encodings music.errors music.notes music.storage",
    "music/examples/": "numpy music.examples music.notes",
    "preprocessing/": "preprocessing music numpy apache_beam",
    "preprocessing/runners.py": "music.errors apache_beam (google)",
    "trainer/": "trainer.model trainer.recipe trainer.recipes music numpy keras",
    "trainer/__init__.py": "",
    # KERAS_BACKEND is set before Keras is imported
    "trainer/__main__.py": "music.command_line music.errors trainer.BACKENDS trainer.use_backend (trainer) (music)"
    " (numpy)",
    "trainer/devices.py": "music numpy keras (jax) (tensorflow)",  # whose replicas must be told of each other
    "trainer/model/": "trainer.devices trainer.model trainer.recipe music numpy keras",
    "trainer/model/recurrence.py": "trainer.model keras (tensorflow)",  # which compiles with XLA
    "trainer/fit/": "trainer.data trainer.devices trainer.evaluation trainer.export trainer.fit trainer.model"
    " trainer.recipe trainer.run_folder music numpy keras (matplotlib)",
    "trainer/fit/optimizers.py": "trainer.devices trainer.recipe keras (tensorflow)",
    "trainer/fit/warm_start.py": "trainer music numpy keras (tensorflow)",  # which reads what an export holds
    "trainer/evaluation/": "trainer.data trainer.evaluation trainer.model music numpy keras",
    "trainer/export/": "trainer.export trainer.model music numpy keras",
    "trainer/export/saved_model.py": "trainer.export trainer.model music numpy keras tensorflow tensorflow_serving",
    "serving/__init__.py": "serving music flask",
    "serving/__main__.py": "serving music flask gunicorn",
    "serving/api/": "serving.api serving.middleware music numpy flask werkzeug",
    "serving/web/": "serving.api serving.web music flask",
    "serving/middleware/": "serving.middleware music numpy flask werkzeug (prometheus_client)",
    "serving/backends/": "serving.backends music numpy grpc (tensorflow) (google)",
    "serving/server/": "serving.middleware serving.server gunicorn werkzeug",
    "infra/__init__.py": "",
    "infra/demo/": "infra.demo music serving numpy",
    "infra/images/": "packaging",
    "infra/images/sbom.py": "",  # which runs where an image is built, with nothing of ours
    "infra/cloud/": "infra.cloud music trainer google yaml tensorflow_serving",
    "benchmarks/": "*",
    "tests/": "*",
    "setup.py": "setuptools",
}


class Import(NamedTuple):
    line: int
    name: str  # in full: `from music import notes` is music.notes
    late: bool  # inside a function, or only for a type checker


def imports(source: str, path: str) -> list[Import]:
    """Every import of a module, in the order of its lines; an import_module of a name made at run time counts too."""
    return sorted(_imports(ast.parse(source), path, late=False))


def _imports(node: ast.AST, path: str, late: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(node.lineno, alias.name, late) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = path.split("/")[: -node.level] if node.level else []
        module = ".".join([*package, *([node.module] if node.module else [])])
        yield from (Import(node.lineno, f"{module}.{alias.name}", late) for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        yield Import(node.lineno, _beginning(node.args[0]), late)
    inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
        for child in node.body:
            yield from _imports(child, path, late=True)
        for child in node.orelse:
            yield from _imports(child, path, late)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, path, late or inside)


def _beginning(name: ast.expr) -> str:
    """What is known of a name made at run time: its constant beginning."""
    if isinstance(name, ast.JoinedStr) and name.values:
        name = name.values[0]
    return name.value.rstrip(".") if isinstance(name, ast.Constant) else f"<{ast.unparse(name)}>"


def violations(source: str, path: str) -> list[str]:
    """What a module imports and may not, a line each."""
    rows = [row for row in TABLE if path == row or (row.endswith("/") and path.startswith(row))]
    if not rows:
        return [f"{path}: no row of the table says what it may import"]
    allowed = TABLE[max(rows, key=len)].split()
    if allowed == ["*"]:
        return []
    lines = []
    for line, name, late in imports(source, path):
        if name.split(".")[0] in sys.stdlib_module_names:
            continue
        words = [word.strip("()") for word in allowed if late or word[0] != "("]
        if not any(_covers(word, name) for word in words):
            lines.append(f"{path}:{line}: may not import {name}" + ("" if late else " when it is imported"))
    return lines


def _covers(word: str, name: str) -> bool:
    return name == word or name.startswith(f"{word}.")


def modules() -> list[str]:
    """Every Python file of the project, as a path from its root."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in NOT_OURS and path.name[0] != "."]
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


@pytest.mark.parametrize("path", modules())
def test_a_module_imports_what_the_design_lets_it(path):
    assert violations((ROOT / path).read_text(), path) == []


def test_every_row_of_the_table_is_about_something():
    files = modules()
    for row in TABLE:
        assert any(path == row or (row.endswith("/") and path.startswith(row)) for path in files), row
    assert {path.split("/")[0] for path in files} >= {"music", "preprocessing", "trainer", "serving", "tests"}


def test_errors_imports_nothing_at_all():
    assert imports((ROOT / "music/errors.py").read_text(), "music/errors.py") == []


# --- no circles between rooms ------------------------------------------------------------------------------------


def room(path: str) -> str:
    """Name the room of a module: its folder, or itself where it lies in none. Recipes and their reader are one room."""
    first, _, rest = path.removesuffix("/__init__.py").removesuffix(".py").partition("/")
    inner = rest.partition("/")[0]
    return f"{first}/recipes" if (first, inner) == ("trainer", "recipe") else f"{first}/{inner}" if inner else first


def arrows(sources: dict[str, str]) -> dict[str, set[str]]:
    """List for each room those that it imports from, wherever in a module the import stands."""
    files = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    graph: dict[str, set[str]] = {}
    for path, source in sources.items():
        for _, name, _ in imports(source, path):
            while name and name not in files:
                name = name.rpartition(".")[0]
            if name and room(files[name]) != room(path):
                graph.setdefault(room(path), set()).add(room(files[name]))
    return graph


def test_rooms_import_each_other_in_no_circle():
    ours = [
        path for path in modules() if path.split("/")[0] in ("music", "preprocessing", "trainer", "serving", "infra")
    ]
    graph = arrows({path: (ROOT / path).read_text() for path in ours})
    assert len(graph) > 30 and "music/storage" in graph["music/analysis"]
    TopologicalSorter(graph).prepare()


def test_a_planted_circle_is_found():
    sources = {"music/a/x.py": "from music.b import y", "music/b/y.py": "def late():\n    from music.a import x"}
    with pytest.raises(CycleError):
        TopologicalSorter(arrows(sources)).prepare()


# --- the page that describes the tree ----------------------------------------------------------------------------


def missing_from(page: str, paths: list[str]) -> list[str]:
    """List the modules that a page does not name, each as `name.py` behind a blank or a slash."""
    names = set(re.findall(r"(?:(?<=\s)|(?<=/))[\w.]+\.(?:py|js)\b", page))
    return [path for path in paths if not path.endswith("__init__.py") and path.rsplit("/", 1)[-1] not in names]


def test_the_architecture_page_names_every_module():
    packages = ("cadenza.py", "music/", "preprocessing/", "trainer/", "serving/", "infra/")
    scripts = [path.relative_to(ROOT).as_posix() for path in (ROOT / "serving/web/static").glob("*.js")]
    paths = [path for path in modules() if path.startswith(packages)] + sorted(scripts)
    assert len(paths) > 100
    assert missing_from((ROOT / "docs/architecture.md").read_text(), paths) == []


def where_tested(path: str, page: str) -> str:
    """The tests of a module: the file with its name, else what the longest row of docs/tests.md says; "" if nothing."""
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", page, re.MULTILINE)
    listed = {name: tests.strip("`") for names, tests in rows for name in re.findall("`(.*?)`", names)}
    own = [test for test in (ROOT / "tests").rglob(f"test_{Path(path).stem}.py") if path.split("/")[0] in test.parts]
    fitting = [name for name in listed if path == name or (name.endswith("/") and path.startswith(name))]
    return str(own[0].relative_to(ROOT)) if own else listed[max(fitting, key=len)] if fitting else ""


def test_the_tests_of_every_module_are_named_and_exist():
    page = (ROOT / "docs/tests.md").read_text()
    packages = ("cadenza.py", "music/", "preprocessing/", "trainer/", "serving/", "infra/")
    paths = [path for path in modules() if path.startswith(packages) and "__" not in path]
    named = {path: where_tested(path, page) for path in paths}
    assert [path for path, tests in named.items() if not tests] == []
    assert all((ROOT / tests).is_file() for tests in named.values() if not tests.startswith("none")), named
    assert [path for path, tests in named.items() if tests.startswith("none")] == ["infra/demo/examples.py"]
    assert where_tested("music/nowhere.py", page) == "" and where_tested("music/midi/new.py", page).endswith(
        "test_midi.py"
    )


def test_a_module_that_the_page_does_not_name_is_found():
    page = "  api/\n    routes.py   the paths\n    static/   app.js connects"
    paths = ["serving/api/routes.py", "serving/api/__init__.py", "serving/web/static/app.js", "serving/api/outes.py"]
    assert missing_from(page, paths) == ["serving/api/outes.py"]


# --- the checker itself, on planted mistakes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source", "blamed"),
    [
        ("music/notes.py", "import tensorflow as tf", "tensorflow"),
        ("music/notes.py", "def late():\n    import tensorflow", "tensorflow"),
        ("music/notes.py", "try:\n    import keras\nexcept ImportError:\n    keras = None", "keras"),
        ("music/notes.py", "class Late:\n    from apache_beam import Map", "apache_beam.Map"),
        ("music/notes.py", "from music import midi", "music.midi"),
        ("music/notes.py", "from . import midi", "music.midi"),
        ("music/notes.py", "from .midi import read", "music.midi.read"),
        ("music/notes.py", "import os, flask.views", "flask.views"),
        ("music/notes.py", "import importlib\nimportlib.import_module('grpc')", "grpc"),
        ("music/notes.py", "x = __import__('jax')", "jax"),
        ("music/notes.py", "from importlib import import_module\nimport_module(name)", "<name>"),
        ("music/midi/files.py", "from serving.api import requests", "serving.api.requests"),
        ("music/plots/piano_roll.py", "import matplotlib.pyplot as plt", "matplotlib.pyplot"),
        ("music/plots/piano_roll.py", "if DRAW:\n    import matplotlib", "matplotlib"),
        ("preprocessing/pipeline.py", "from trainer.data import windows", "trainer.data.windows"),
        ("preprocessing/pipeline.py", "import tensorflow", "tensorflow"),
        ("trainer/model/event_model.py", "from keras.src import backend\nimport tensorflow as tf", "tensorflow"),
        ("trainer/model/event_model.py", "import jax.numpy as jnp", "jax.numpy"),
        ("trainer/recipes/performance.py", "from preprocessing import maestro", "preprocessing.maestro"),
        ("trainer/recipes/performance.py", "from ...serving.api import routes", "serving.api.routes"),
        ("trainer/__main__.py", "from trainer import model", "trainer.model"),
        ("serving/api/routes.py", "def page():\n    import tensorflow", "tensorflow"),
        ("serving/backends/embedded.py", "import tensorflow as tf", "tensorflow"),
        ("serving/backends/tfserving.py", "from trainer.model import build", "trainer.model.build"),
        ("serving/backends/tfserving.py", "import tensorflow_serving.apis", "tensorflow_serving.apis"),
    ],
)  # fmt: skip
def test_a_planted_mistake_is_found(path, source, blamed):
    (line,) = violations(source, path)
    assert re.fullmatch(rf"{path}:\d+: may not import {blamed}( when it is imported)?", line)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("music/plots/piano_roll.py", "def draw():\n    import matplotlib.pyplot as plt"),
        (
            "music/plots/piano_roll.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from matplotlib.axes import Axes",
        ),
        ("music/generation.py", "import json\nimport numpy as np\nfrom music import notes as nt"),
        ("trainer/recipe.py", "import importlib\nimportlib.import_module(f'trainer.recipes.{name}')"),
        ("trainer/export/saved_model.py", "import tensorflow as tf\nfrom tensorflow_serving.apis import predict_pb2"),
        ("serving/backends/embedded.py", "class Embedded:\n    def load(self):\n        import tensorflow as tf"),
        ("serving/api/responses.py", "from serving.api import requests\nfrom . import problems"),
        ("tests/music/test_wire.py", "import tensorflow"),
    ],
)
def test_what_is_allowed_is_not_blamed(path, source):
    assert violations(source, path) == []


def test_a_new_folder_needs_a_row():
    assert violations("", "listening/rooms.py") == ["listening/rooms.py: no row of the table says what it may import"]


# --- and what is really loaded -----------------------------------------------------------------------------------


def test_importing_all_of_music_loads_nothing_heavy():
    names = [path[:-3].replace("/", ".") for path in modules() if path.startswith("music/") and "__" not in path]
    assert "music.notes" in names
    program = (
        f"import sys, {', '.join(names)}\n"
        "heavy = 'tensorflow keras jax torch apache_beam flask grpc matplotlib requests'.split()\n"
        "heavy += 'google.cloud.storage google.auth soundfile music21 verovio typst'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
