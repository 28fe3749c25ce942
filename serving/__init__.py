"""The web front end: POST a seed, get its continuation. Knows HTTP; music and models are `music`'s business.

Three ways to make the application:

    create_app()                                                  the model in models/, in this process
    create_app({"MODEL": "runs/export/performance"})              another one
    create_app({"SERVER": "127.0.0.1:8500", "MODEL_NAME": "performance"})     behind TF Serving
    create_app({"SERVER": "models.example:443", "MODEL_NAME": "performance", "LABEL": "stable", "TLS": True})
"""

from collections.abc import Mapping

from flask import Flask, request

from music.analysis import memorization
from music.generation import CHUNK, Backend, Generator
from serving.api import problems, routes
from serving.backends import credentials
from serving.backends.embedded import Embedded
from serving.backends.tfserving import TFServing, host_of
from serving.middleware import access_log, api_keys, cors, rate_limit, request_context
from serving.middleware.concurrency import Turns
from serving.middleware.metrics import Metrics
from serving.web import page

DEFAULTS = {
    "MODEL": None,  # a folder, as `embedded.find_model` takes it; None: models/ beside this package
    "WARM": False,  # compile it for many listeners before the first one comes
    "SERVER": None,  # host:port of a TF Serving; then MODEL_NAME is its name for the model
    "MODEL_NAME": None,
    "XLA": False,  # ask for the compiled signatures; the server must be told to compile
    "LABEL": None,  # of the version that new pieces begin with; None: the latest one
    "TLS": False,
    "CA": None,  # a PEM file: who may vouch for the server, if not the public authorities
    "IDENTITY_TOKEN": None,  # send Google ID tokens for this audience; True: for https:// and the server's host
    "TOKEN_FILE": None,  # or the token in this file,
    "TOKEN_ENV": None,  # or in this variable of the environment
    "ORIGINALITY": None,  # an index of the training set, made by `trainer originality`; None: the embedded model's own
    "CHUNK": CHUNK,  # notes a call; 1: strictly one `step` a note
    "TIMEOUT": 30.0,  # seconds for one call of the model
    "PIECE_TIMEOUT": 600.0,  # seconds for a whole piece: 4,096 notes at seven a second; None: as long as it takes
    "MAX_GENERATIONS": 32,  # at once, in one process; one more is refused with 429
    "RATE": None,  # requests a minute of each key, or of each address, that one process takes; None: as many as come
    "PROXIES": 0,  # of ours between the listeners and us, which say in X-Forwarded-For who asks
    "API_KEYS": None,  # a list of them; None, with the next two: everybody may ask
    "API_KEYS_FILE": None,  # one in each line
    "API_KEYS_ENV": None,  # the name of a variable of the environment with some, space between
    "CORS_ORIGINS": (),  # whose scripts may ask from a browser, as https://music.example; "*": everybody's
    "METRICS_DIR": None,  # an empty folder that the processes of one server share; None: each counts for itself
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
        SettingError, MissingDependency: as `remote` does.
        RecordError: there is no whole index where ORIGINALITY says.
    """
    app = Flask(__name__, template_folder="web/templates", static_folder="web/static")
    app.config.from_mapping(DEFAULTS)
    app.config.from_mapping(config or {})
    metrics = Metrics(app.config["METRICS_DIR"], app.config["MAX_GENERATIONS"])
    backend = backend or _backend(app.config)
    index = _index(app.config["ORIGINALITY"], backend)
    asked = request_context.ForListeners(backend, metrics.failed)
    generator = Generator(
        asked, chunk=app.config["CHUNK"], timeout=app.config["TIMEOUT"], piece_timeout=app.config["PIECE_TIMEOUT"]
    )
    problems.register(app)
    _watch(app, metrics)
    known = api_keys.read(app.config)
    if app.config["RATE"] is not None:
        rate_limit.limit(app, rate_limit.Rate(app.config["RATE"]), known, app.config["PROXIES"])
    if known:
        api_keys.guard(app, known)
    if app.config["CORS_ORIGINS"]:
        cors.allow(app, app.config["CORS_ORIGINS"])
    app.register_blueprint(page.blueprint(generator))
    label = app.config["LABEL"] if app.config["SERVER"] else None
    pieces = Turns("pieces", app.config["MAX_GENERATIONS"], waiting=0)
    app.register_blueprint(routes.blueprint(generator, pieces, metrics, label, index, closed=bool(known)))
    return app


def _watch(app: Flask, metrics: Metrics) -> None:
    """Give every request an id, and tell log and metrics how it ended."""

    @app.before_request
    def routed() -> None:
        if (visit := request_context.current()) and request.url_rule:
            visit.route = request.url_rule.rule

    def ended(visit: request_context.Visit) -> None:
        access_log.write(visit)
        metrics.ended(visit)

    app.wsgi_app = request_context.Watched(app.wsgi_app, ended)  # type: ignore[method-assign]


def _backend(config: Mapping) -> Backend:
    if config["SERVER"]:
        return remote(config)
    embedded = Embedded(config["MODEL"])
    if config["WARM"]:
        embedded.warm()
    return embedded


def _index(path: str | None, backend: Backend) -> memorization.Index | None:
    """The index that is named, or the one that came with the model in this process. Raises RecordError."""
    if path:
        return memorization.read(path)
    beside = backend.folder / "assets.extra" / memorization.FILE if isinstance(backend, Embedded) else None
    return memorization.read(beside) if beside and beside.exists() else None


def remote(config: Mapping) -> TFServing:
    """The model server that `config` names.

    Raises:
        SettingError: what is said of the server does not fit together.
        MissingDependency: google-auth is needed, and not installed.
    """
    return TFServing(
        config["SERVER"],
        config["MODEL_NAME"],
        label=config["LABEL"],
        xla=config["XLA"],
        tls=config["TLS"],
        ca=config["CA"],
        token=token_of(config),
    )


def token_of(config: Mapping) -> credentials.Token | None:
    """Where the tokens come from that the server wants; None: it wants none."""
    if audience := config["IDENTITY_TOKEN"]:
        return credentials.GoogleIdentity(f"https://{host_of(config['SERVER'])}" if audience is True else audience)
    if config["TOKEN_FILE"]:
        return credentials.from_file(config["TOKEN_FILE"])
    return credentials.from_environ(config["TOKEN_ENV"]) if config["TOKEN_ENV"] else None
