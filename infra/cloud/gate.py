"""The gate: does the whole stack play? It sends a seed over HTTP, and checks the reply.

    python -m infra.cloud.gate http://127.0.0.1:8080 [--model performance/1]
    TOKEN=$(gcloud auth print-identity-token) python -m infra.cloud.gate https://cadenza-….run.app --token-env TOKEN

Waits until the model answers, continues the nocturne, and checks three things: new notes follow the seed's own; the
expected model answered; the same random seed gives the same bytes again, and as many notes as a stream.
Knows nothing of what is behind the address: compose, Cloud Run, or a server on this machine.
"""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from email.message import Message

from music import midi
from music.command_line import fail
from music.errors import MusicError, SettingError, Unavailable
from music.examples.nocturne import nocturne

NOTES, RANDOM_SEED = 64, 7
_REFUSALS = (401, 403, 404)  # HTTP statuses that waiting does not change


class GateError(MusicError):
    """The stack answers, but not as it should."""

    status: int | None = None  # HTTP status, where that was the error


def call(url: str, body: bytes | None = None, token: str | None = None, timeout: float = 120) -> tuple[bytes, Message]:
    """Send a request; return the reply and its headers.

    Raises:
        Unavailable: nothing answers.
        GateError: the reply is an HTTP error.
    """
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "audio/midi"})
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")  # not sent to where a redirect leads
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.read(), reply.headers
    except urllib.error.HTTPError as error:
        text = " ".join(error.read().decode(errors="replace").split())
        refusal = GateError(f"{url}: HTTP {error.code}: {text[:300]}")
        refusal.status = error.code
        raise refusal from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url}: {error}") from error


def wait(address: str, seconds: float, token: str | None = None) -> None:
    """Wait until the model answers. Raises Unavailable with the last error after `seconds`, and a refusal at once.

    It asks /model, as Cloud Run's own front end answers paths that end in z, /healthz at least, itself.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            call(f"{address}/model", token=token, timeout=max(1.0, until - time.monotonic()))
            return
        except MusicError as error:
            if getattr(error, "status", None) in _REFUSALS:
                raise
            if time.monotonic() >= until:
                raise Unavailable(f"not ready after {seconds:g} s: {error}") from error
        time.sleep(0.5)


def check(address: str, model: str | None = None, token: str | None = None) -> str:
    """Continue the nocturne, and describe the reply in a line. Raises GateError where it is not as expected."""
    seed = nocturne()
    url = f"{address}/generate?notes={NOTES}&random_seed={RANDOM_SEED}"
    body = midi.write(seed)
    began = time.monotonic()
    first, headers = call(url, body, token)
    took = time.monotonic() - began
    answered = headers.get("X-Model", "")
    if model and answered != model:
        raise GateError(f"{url}: expected X-Model {model}, got {answered or 'none'}")
    played = midi.read(first)
    new = len(played) - len(seed)
    if not 0 < new <= NOTES:
        raise GateError(f"{url}: expected 1 to {NOTES} notes behind the seed's {len(seed)}, got {new}")
    if str(new) != headers.get("X-Notes"):
        raise GateError(f"{url}: {new} new notes in the MIDI, X-Notes says {headers.get('X-Notes')}")
    if call(url, body, token)[0] != first:
        raise GateError(f"{url}: the same random seed gave other bytes the second time")
    stream, _ = call(f"{url}&format=ndjson&include_seed=false", body, token)
    lines = [json.loads(line) for line in stream.splitlines()]
    streamed = sum("pitch" in line for line in lines)
    if streamed != new or "end" not in lines[-1]:
        raise GateError(f"{url}: expected {new} notes and an end in the stream, got {streamed} and {lines[-1]}")
    return f"{address}: {answered} played {new} notes behind {len(seed)} in {took:.1f} s, and the same ones three times"


def _token(name: str, address: str) -> str:
    """Read the token from a variable. Raises SettingError where it is empty, or would travel in plain text."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise SettingError(f"{address}: a token is for https://, it would travel in plain text")
    if not (token := os.environ.get(name, "").strip()):
        raise SettingError(f"--token-env {name}: expected a token in that variable, it is empty")
    return token


def run(argv: Sequence[str] | None = None) -> int:
    """Check the stack; return 0 where it plays, else 1 after one line that says why not."""
    usage, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("python -m infra.cloud.gate", description=usage)
    parser.add_argument("address", help="address of the front end, such as http://127.0.0.1:8080")
    parser.add_argument("--model", metavar="NAME/VERSION", help="the model that must answer; default: any")
    parser.add_argument(
        "--token-env", metavar="NAME",
        help="environment variable with an identity token, for a service that not everybody may call; default: none",
    )  # fmt: skip
    parser.add_argument(
        "--wait", type=float, default=120, metavar="SECONDS",
        help="seconds to wait until the model answers; default: %(default)s",
    )  # fmt: skip
    args = parser.parse_args(argv)
    address = args.address.rstrip("/")
    try:
        token = _token(args.token_env, address) if args.token_env else None
        wait(address, args.wait, token)
        print(check(address, args.model, token))
    except MusicError as error:
        return fail("python -m infra.cloud.gate", error, 1)
    return 0


if __name__ == "__main__":
    sys.exit(run())
