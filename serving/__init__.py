"""The web front end: POST a seed, get its continuation. Knows HTTP; music and models are `music`'s business.

Three ways to make the application:

    create_app()                                                  the model in models/, in this process
    create_app({"MODEL": "runs/export/performance"})              another one
    create_app({"SERVER": "127.0.0.1:8500", "MODEL_NAME": "performance"})     behind TF Serving
"""

from collections.abc import Mapping

from flask import Flask

from music.generation import CHUNK, Backend, Generator
from serving import problems, routes
from serving.embedded import Embedded
from serving.tfserving import TFServing

DEFAULTS = {
    "MODEL": None,  # a folder, as `embedded.find_model` takes it; None: models/ beside this package
    "SERVER": None,  # host:port of a TF Serving; then MODEL_NAME is its name for the model
    "MODEL_NAME": None,
    "CHUNK": CHUNK,  # notes a call; 1: strictly one `step` a note
    "TIMEOUT": 30.0,  # seconds for one call of the model, not for a whole piece
    "MAX_GENERATIONS": 32,  # at once, in one process; one more is refused with 429
    "MAX_CONTENT_LENGTH": 5 * 2**20,  # bytes of a request
    "MAX_FORM_MEMORY_SIZE": 5 * 2**20,  # Flask's own limit for a form's text would be a tenth of that
}


def create_app(config: Mapping | None = None, backend: Backend | None = None) -> Flask:
    """Make the WSGI application.

    Args:
        config: overrides DEFAULTS.
        backend: what answers, if not the model or the server that `config` names.

    Raises:
        Unavailable: no server is named, and there is no model where it was looked for.
    """
    app = Flask(__name__)
    app.config.from_mapping(DEFAULTS)
    app.config.from_mapping(config or {})
    generator = Generator(backend or _backend(app.config), chunk=app.config["CHUNK"], timeout=app.config["TIMEOUT"])
    problems.register(app)
    app.register_blueprint(routes.blueprint(generator, routes.Limit(app.config["MAX_GENERATIONS"])))
    return app


def _backend(config: Mapping) -> Backend:
    if config["SERVER"]:
        return TFServing(config["SERVER"], config["MODEL_NAME"])
    return Embedded(config["MODEL"])
