"""A limit of requests a minute, for each API key or for each address that sends none. By default there is none.

Each has a token bucket: a client that sent nothing for a minute may send a minute's worth at once. Each process counts
for itself, in bounded memory. Only paths that keys would close are counted.
"""

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

import flask
from werkzeug.exceptions import TooManyRequests

from music.errors import SettingError
from serving.middleware import api_keys

MOST = 10_000  # buckets in memory; the one unused for longest is dropped first, as it would be full again


class Rate:
    """Token buckets of `a_minute` requests, one for each client. Thread-safe. Raises SettingError for a wrong rate."""

    def __init__(self, a_minute: float, *, most: int = MOST, clock: Callable[[], float] = time.monotonic):
        if not 1 <= a_minute < math.inf:
            raise SettingError(f"rate: expected at least 1 request a minute, got {a_minute:g}")
        self.a_minute, self._most, self._clock = a_minute, most, clock
        self._lock = threading.Lock()
        self._tokens: OrderedDict[Hashable, tuple[float, float]] = (
            OrderedDict()
        )  # of each client; and when it had so many

    def take(self, client: Hashable) -> float:
        """Take a token of a client's bucket; return 0, or the seconds until there is one if it is empty."""
        with self._lock:
            now = self._clock()
            tokens, then = self._tokens.pop(client, (self.a_minute, now))
            tokens = min(self.a_minute, tokens + (now - then) * self.a_minute / 60)
            taken = tokens >= 1
            self._tokens[client] = (tokens - taken, now)
            while len(self._tokens) > self._most:
                self._tokens.popitem(last=False)
            return 0.0 if taken else (1 - tokens) * 60 / self.a_minute


def address(request: flask.Request, proxies: int) -> str:
    """Return the address of a request's client, behind `proxies` of our own that each add to X-Forwarded-For.

    For an IPv6 address it is the network, the first 64 bits: a client that has one address has all of them.
    """
    forwarded = [word.strip() for word in request.headers.get("X-Forwarded-For", "").split(",")]
    text = forwarded[-proxies] if 0 < proxies <= len(forwarded) else request.remote_addr or ""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return request.remote_addr or ""  # what the proxy sent is not an address
    if parsed.version == 4 or parsed.ipv4_mapped:
        return str(getattr(parsed, "ipv4_mapped", None) or parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def limit(app: flask.Flask, rate: Rate, keys: api_keys.Keys | None, proxies: int) -> None:
    """Answer 429 to a client that asks too often; before keys are checked, so that nobody can try many of them."""

    @app.before_request
    def count_request() -> None:
        request = flask.request
        if request.method == "OPTIONS" or not request.url_rule or request.url_rule.rule in api_keys.OPEN:
            return
        key = api_keys.valid_digest(request, keys) if keys else None
        guesses = 1 if key else max(1, len(api_keys.presented(request)))  # there are two headers to try a key in
        if wait := max(rate.take(key or address(request, proxies)) for _ in range(guesses)):
            raise TooManyRequests(
                f"this server takes {rate.a_minute:g} requests a minute of each {'key' if key else 'address'}; "
                f"try again in {math.ceil(wait)} seconds",
                retry_after=math.ceil(wait),
            )
