"""So many requests a minute for each key, or for each address that shows none. By default without end.

A token bucket for each: who has been quiet for a minute may ask for a minute's worth at once. Each process counts for
itself, in bounded memory. Knows addresses, and keys only as somebody's; what is counted is what keys would close.
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

MOST = 10_000  # that we remember; whoever was quiet for longest is forgotten first, who would have all tokens again


class Rate:
    """So many a minute for everybody. Threads share it. Raises SettingError for what is no such number."""

    def __init__(self, a_minute: float, *, most: int = MOST, clock: Callable[[], float] = time.monotonic):
        if not 1 <= a_minute < math.inf:
            raise SettingError(f"rate: expected at least 1 request a minute, got {a_minute:g}")
        self.a_minute, self._most, self._clock = a_minute, most, clock
        self._lock = threading.Lock()
        self._tokens: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # and when there were so many

    def take(self, who: Hashable) -> float:
        """Take a token of theirs; or the seconds until there is one, if there is none."""
        with self._lock:
            now = self._clock()
            tokens, then = self._tokens.pop(who, (self.a_minute, now))
            tokens = min(self.a_minute, tokens + (now - then) * self.a_minute / 60)
            taken = tokens >= 1
            self._tokens[who] = (tokens - taken, now)
            while len(self._tokens) > self._most:
                self._tokens.popitem(last=False)
            return 0.0 if taken else (1 - tokens) * 60 / self.a_minute


def address(request: flask.Request, proxies: int) -> str:
    """Whose request it is, if `proxies` of ours stand between them and us, each of which adds to X-Forwarded-For.

    Of an IPv6 address the network, the first 64 bits: who has one address has all of them.
    """
    told = [word.strip() for word in request.headers.get("X-Forwarded-For", "").split(",")]
    text = told[-proxies] if 0 < proxies <= len(told) else request.remote_addr or ""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return request.remote_addr or ""  # a proxy that says something else is not to be counted on
    if found.version == 4 or found.ipv4_mapped:
        return str(getattr(found, "ipv4_mapped", None) or found)
    return str(ipaddress.ip_network((found, 64), strict=False))


def limit(app: flask.Flask, rate: Rate, known: api_keys.Keys | None, proxies: int) -> None:
    """Answer 429 to who asks too often; before keys are looked at, so that nobody can try many of them."""

    @app.before_request
    def counted() -> None:
        request = flask.request
        if request.method == "OPTIONS" or not request.url_rule or request.url_rule.rule in api_keys.OPEN:
            return
        shown = api_keys.shown(request, known) if known else None
        guesses = 1 if shown else max(1, len(api_keys.given(request)))  # there are two headers to try a key in
        if wait := max(rate.take(shown or address(request, proxies)) for _ in range(guesses)):
            raise TooManyRequests(
                f"this server takes {rate.a_minute:g} requests a minute of each {'key' if shown else 'address'}; "
                f"try again in {math.ceil(wait)} seconds",
                retry_after=math.ceil(wait),
            )
