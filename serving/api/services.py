"""What one app has besides its configuration, and how its views get it. Two apps in one process share none of it.

METRICS_DIR alone belongs to the process, as prometheus_client takes it from an environment variable.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import flask

from music.analysis.memorization import Index
from music.generation import Generator
from serving.api import requests
from serving.api.rendering import Renderers
from serving.middleware.api_keys import Keys
from serving.middleware.concurrency import ConcurrencyLimit
from serving.middleware.metrics import Metrics


@dataclass
class Services:
    """The model, counters, limits and threads of one app."""

    generator: Generator
    metrics: Metrics
    pieces: ConcurrencyLimit  # of pieces that are generated at once
    label: str | None = None  # of the model's version that `generator` follows
    index: Index | None = None  # what replies are compared with where `originality` is asked for
    keys: Keys | None = None  # None: everybody may use the API
    reading: ConcurrencyLimit = field(default_factory=requests.reading_limit)  # of MIDI files
    renderers: Renderers = field(default_factory=Renderers)


View = tuple[str, str, Callable[..., flask.Response | dict | str]]  # method, rule, function of Services and variables


def add_views(app: flask.Flask, services: Services, views: Iterable[View]) -> None:
    """Let `app` answer each view's method and rule with its function, which is called with `services`."""
    for method, rule, view in views:
        app.add_url_rule(rule, view.__name__, partial(view, services), methods=[method])
