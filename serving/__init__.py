"""The web front end: POST a seed, get its continuation. Knows HTTP, and leaves music and models to `music`.

Ways to make the application:

    create_app()                                                  the model in models/, in this process
    create_app({"MODEL": "runs/export/performance"})              another one
    create_app({"SERVER": "127.0.0.1:8500", "MODEL_NAME": "performance"})     behind TF Serving
    create_app({"SERVER": "models.example:443", "MODEL_NAME": "performance", "LABEL": "stable", "TLS": True})
"""

from collections.abc import Mapping

from flask import Flask

from music.analysis import memorization
from music.generation import CHUNK, Backend, Generator
from serving.api import problems, routes
from serving.api.services import Services, add_views
from serving.backends import credentials
from serving.backends.embedded import Embedded
from serving.backends.tfserving import TFServing, host_of
from serving.middleware import access_log, api_keys, cors, rate_limit, request_context, security_headers
from serving.middleware.concurrency import ConcurrencyLimit
from serving.middleware.metrics import Metrics
from serving.web import page

DEFAULTS = {
    "MODEL": None,  # a folder, as `embedded.find_model` takes it; None: models/ beside this package
    "WARM": False,  # compile it for many requests at once, before the first one comes
    "SERVER": None,  # host:port of a TF Serving; then MODEL_NAME is its name for the model
    "MODEL_NAME": None,
    "XLA": False,  # call the compiled signatures; the server must be started with compilation
    "LABEL": None,  # of the model version that new pieces begin with; None: the latest one
    "TLS": False,  # encrypt the connection to the server
    "CA": None,  # a PEM file of the authorities that may certify the server; None: the public ones
    "IDENTITY_TOKEN": None,  # send Google ID tokens for this audience; True: for https:// and the server's host
    "TOKEN_FILE": None,  # or send the token in this file,
    "TOKEN_ENV": None,  # or in this environment variable
    "ORIGINALITY": None,  # a file by `trainer originality`, an index of the training set; None: the embedded model's
    "CHUNK": CHUNK,  # notes in one call of the model; 1: strictly one `step` a note
    "TIMEOUT": 30.0,  # seconds for one call of the model
    "PIECE_TIMEOUT": 600.0,  # seconds for a whole piece: 4,096 notes at seven a second; None: no limit
    "MAX_GENERATIONS": 32,  # pieces at once, in one process; one more is refused with 429
    "RATE": None,  # requests a minute of each key or address that one process takes; None: no limit
    "PROXIES": 0,  # our own proxies in front; each adds an address to X-Forwarded-For
    "API_KEYS": None,  # a list; None, also the next two: everybody may use the API
    "API_KEYS_FILE": None,  # a file with one key a line
    "API_KEYS_ENV": None,  # the name of an environment variable with keys, separated by spaces
    "CORS_ORIGINS": (),  # sites whose scripts may use the API, as https://music.example; "*": all
    "METRICS_DIR": None,  # an empty folder that the processes of one server share; None: each counts for itself
    "MAX_CONTENT_LENGTH": 5 * 2**20,  # bytes of a request's body
    "MAX_FORM_MEMORY_SIZE": 5 * 2**20,  # bytes of a form's text; Flask's default is a tenth of that
}


def create_app(config: Mapping | None = None, backend: Backend | None = None) -> Flask:
    """Make the WSGI application. Its services are in `extensions["cadenza"]`.

    Args:
        config: overrides DEFAULTS.
        backend: what answers, instead of the model or the server that `config` names.

    Raises:
        Unavailable: no server is named, and there is no model where it was looked for.
        SettingError, MissingDependency: as `remote` does; or keys, rate or origins are wrong.
        RecordError: ORIGINALITY names no index, or a damaged one.
    """
    app = Flask(__name__, template_folder="web/templates", static_folder="web/static")
    app.config.from_mapping(DEFAULTS)
    app.config.from_mapping(config or {})
    services = app.extensions["cadenza"] = _services(app.config, backend)
    problems.register(app)
    # a request passes these from the first to the last, and its reply from the last to the first
    for install in (_request_context, _security_headers, _rate_limit, _api_keys, _cors):
        install(app, services)
    add_views(app, services, (*page.VIEWS, *routes.VIEWS))
    return app


def _request_context(app: Flask, services: Services) -> None:
    """Give every request an id, and write to log and metrics how it ended."""

    def on_end(context: request_context.RequestContext) -> None:
        access_log.write(context)
        services.metrics.ended(context)

    request_context.install(app, on_end)


def _security_headers(app: Flask, services: Services) -> None:
    """Tell browsers in every reply what they may do with it."""
    security_headers.install(app)


def _rate_limit(app: Flask, services: Services) -> None:
    """Limit the requests a minute, if RATE says so; before keys are checked, so that nobody can try many of them."""
    if app.config["RATE"] is not None:
        rate_limit.limit(app, rate_limit.Rate(app.config["RATE"]), services.keys, app.config["PROXIES"])


def _api_keys(app: Flask, services: Services) -> None:
    """Ask for a key, if there are any."""
    if services.keys:
        api_keys.guard(app, services.keys)


def _cors(app: Flask, services: Services) -> None:
    """Let scripts of the sites in CORS_ORIGINS use the API."""
    if app.config["CORS_ORIGINS"]:
        cors.allow(app, app.config["CORS_ORIGINS"])


def _services(config: Mapping, backend: Backend | None) -> Services:
    """Make what one app needs besides its configuration."""
    metrics = Metrics(config["METRICS_DIR"], config["MAX_GENERATIONS"])
    backend = backend or _backend(config)
    index = _index(config["ORIGINALITY"], backend)
    generator = Generator(
        request_context.CancellingBackend(backend, metrics.failed),
        chunk=config["CHUNK"],
        timeout=config["TIMEOUT"],
        piece_timeout=config["PIECE_TIMEOUT"],
    )
    return Services(
        generator,
        metrics,
        pieces=ConcurrencyLimit("pieces", config["MAX_GENERATIONS"], waiting=0),
        label=config["LABEL"] if config["SERVER"] else None,
        index=index,
        keys=api_keys.read(config),
    )


def _backend(config: Mapping) -> Backend:
    if config["SERVER"]:
        return remote(config)
    embedded = Embedded(config["MODEL"])
    if config["WARM"]:
        embedded.warm()
    return embedded


def _index(path: str | None, backend: Backend) -> memorization.Index | None:
    """Read the index that `path` names, or the one that came with the model in this process. Raises RecordError."""
    if path:
        return memorization.read(path)
    default = backend.folder / "assets.extra" / memorization.FILE if isinstance(backend, Embedded) else None
    return memorization.read(default) if default and default.exists() else None


def remote(config: Mapping) -> TFServing:
    """Connect to the model server that `config` names.

    Raises:
        SettingError: the settings of the server do not fit together.
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
    """Choose the source of the tokens that the model server expects; None: it expects none."""
    if audience := config["IDENTITY_TOKEN"]:
        return credentials.GoogleIdentity(f"https://{host_of(config['SERVER'])}" if audience is True else audience)
    if config["TOKEN_FILE"]:
        return credentials.from_file(config["TOKEN_FILE"])
    return credentials.from_environ(config["TOKEN_ENV"]) if config["TOKEN_ENV"] else None
