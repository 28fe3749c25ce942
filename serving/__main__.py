"""Serve the front end with gunicorn.

    python -m serving                                                  the model in models/, in this process
    python -m serving --model runs/export/performance                  another one, or one in a bucket, gs://…
    python -m serving --server 127.0.0.1:8500 --model-name performance       before a TF Serving
    python -m serving --server models.example:443 --tls --identity-token --model-name performance --label stable

Then open http://127.0.0.1:8080/, or: curl -F seed=@music.mid 'http://127.0.0.1:8080/generate?notes=64' -o out.mid
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import flask
from gunicorn.app.base import Application
from gunicorn.errors import AppImportError

from music.analysis import memorization
from music.errors import MusicError
from music.generation import CHUNK
from serving import DEFAULTS, create_app, remote, token_of
from serving.backends.embedded import find_model
from serving.middleware import access_log, api_keys, cors, metrics, rate_limit

_ABOUT_SERVERS = ("model_name", "label", "xla", "tls", "ca", "identity_token", "token_file", "token_env")


class Gunicorn(Application):
    """gunicorn, configured by our file and flags instead of its own command line.

    `failure` is an open file in which a worker that cannot serve says why: one line.
    """

    def __init__(self, bind: str, workers: int | None, config: dict, failure: BinaryIO):
        self._bind, self._workers, self._config = bind, workers, config
        self._failure = failure
        super().__init__()

    def load_config(self) -> None:
        self.load_config_from_file(str(Path(__file__).parent / "server" / "gunicorn.conf.py"))
        self.cfg.set("bind", self._bind)
        if self._workers:
            self.cfg.set("workers", self._workers)

    def load(self) -> flask.Flask:
        """Runs in each worker, after the fork. An AppImportError is one line without a traceback, and stops us all."""
        access_log.open_logs()
        try:
            return create_app(self._config)
        except MusicError as error:
            self._failure.write(f"python -m serving: {' '.join(str(error).split())}\n".encode())
            self._failure.flush()
            raise AppImportError("this worker cannot serve; the last line says why") from error


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    usage, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("python -m serving", description=usage)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--model", metavar="DIR", help="a SavedModel: version, model or base folder; default: models/")
    parser.add_argument(
        "--warm", action="store_true",
        help="compile that model for 32 listeners before the first one comes, not once they come",
    )  # fmt: skip
    where.add_argument("--server", metavar="HOST:PORT", help="a TF Serving's gRPC address")
    parser.add_argument("--model-name", metavar="NAME", help="what that server calls the model")
    parser.add_argument(
        "--label", metavar="LABEL", help="the version that new pieces begin with, such as stable; default: the latest"
    )
    parser.add_argument(
        "--xla", action="store_true",
        help="ask for compiled signatures: a server started with --xla_cpu_compilation_enabled and an export --xla",
    )  # fmt: skip
    parser.add_argument("--tls", action="store_true", help="speak TLS with that server")
    parser.add_argument("--ca", metavar="FILE", help="who may vouch for it, as PEM; default: the public authorities")
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--identity-token", nargs="?", const=True, metavar="AUDIENCE",
        help="send it ID tokens of Google's, as Cloud Run wants them; default: for https:// and the server's host",
    )  # fmt: skip
    token.add_argument("--token-file", metavar="FILE", help="or the token in this file, read anew for each call")
    token.add_argument("--token-env", metavar="NAME", help="or the one in this variable of the environment")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", 8080), help="default: $PORT, or 8080")
    parser.add_argument(
        "--originality", metavar="FILE",
        help="an index of the training set, for /generate?originality=true; default: the one inside the model's folder",
    )  # fmt: skip
    parser.add_argument("--chunk", type=int, default=CHUNK, help=f"notes a call, 1 to {CHUNK}; 1: one `step` a note")
    parser.add_argument("--timeout", type=float, default=DEFAULTS["TIMEOUT"], help="seconds for one call of the model")
    parser.add_argument(
        "--piece-timeout", type=float, default=DEFAULTS["PIECE_TIMEOUT"], metavar="SECONDS",
        help="for a whole piece, its listener's pauses included; default: %(default)g; inf: as long as it takes",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=float, metavar="N",
        help="requests a minute that each process takes of one key, or of one address; default: as many as come",
    )  # fmt: skip
    parser.add_argument(
        "--proxies", type=int, default=DEFAULTS["PROXIES"], metavar="N",
        help="of yours in front, which add to X-Forwarded-For: whose address --rate counts; default: none is believed",
    )  # fmt: skip
    parser.add_argument("--api-keys-file", metavar="FILE", help="answer only who shows one of these keys, one a line")
    parser.add_argument("--api-keys-env", metavar="NAME", help="or one of those in this variable of the environment")
    parser.add_argument(
        "--cors-origin", action="append", default=[], metavar="ORIGIN",
        help="whose scripts may ask from a browser, as https://music.example, or '*'; may be given several times",
    )  # fmt: skip
    return parser


def run(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop; exits with 2 where the command line is at fault, with 4 if no model can be loaded."""
    parser = arguments()
    args = parser.parse_args(argv)
    if bool(args.server) != bool(args.model_name):
        parser.error("--server and --model-name belong together")
    for flag in _ABOUT_SERVERS:
        name, given = f"--{flag.replace('_', '-')}", getattr(args, flag)
        if given == "":
            parser.error(f"{name}: expected a value, got an empty one")
        if given and not args.server:
            parser.error(f"{name} is about a --server")
        if given and flag not in ("model_name", "label", "xla", "tls") and not args.tls:
            parser.error(f"{name} needs --tls: certificates and tokens are not for plain text")
    if args.warm and args.server:
        parser.error("--warm is about a model in this process, not about a --server")
    if not 0 <= args.port <= 65535:
        parser.error(f"--port: expected 0 to 65535, got {args.port}")
    if not 1 <= args.chunk <= CHUNK:
        parser.error(f"--chunk: expected 1 to {CHUNK}, got {args.chunk}")
    for name, seconds in (("--timeout", args.timeout), ("--piece-timeout", args.piece_timeout)):
        if not seconds > 0:
            parser.error(f"{name}: expected more than 0 seconds, got {seconds:g}")
    if args.proxies < 0:
        parser.error(f"--proxies: expected 0 or more, got {args.proxies}")
    config = {"CHUNK": args.chunk, "TIMEOUT": args.timeout, "PIECE_TIMEOUT": args.piece_timeout}
    config |= {"ORIGINALITY": args.originality, "CORS_ORIGINS": args.cors_origin}
    config |= {"RATE": args.rate, "PROXIES": args.proxies}
    config |= {"API_KEYS_FILE": args.api_keys_file, "API_KEYS_ENV": args.api_keys_env}
    try:
        cors.check(args.cors_origin)
        api_keys.read(DEFAULTS | config)
        if args.rate is not None:
            rate_limit.Rate(args.rate)
        if args.originality is not None:
            memorization.read(args.originality)
        if args.server:
            config |= {"SERVER": args.server} | {flag.upper(): getattr(args, flag) for flag in _ABOUT_SERVERS}
            remote(config)
            if token := token_of(config):
                token.bearer()  # now, as without one no call will ever be answered
        else:
            config |= {"MODEL": str(find_model(args.model)), "WARM": args.warm}
    except (MusicError, OSError) as error:
        print(f"python -m serving: {error}", file=sys.stderr)
        sys.exit(2)
    # gunicorn's own default is one process, or $WEB_CONCURRENCY
    workers = 2 * (os.cpu_count() or 1) if args.server and "WEB_CONCURRENCY" not in os.environ else None
    host = f"[{args.host}]" if ":" in args.host and args.host[0] != "[" else args.host  # an IPv6 address
    ours = os.getpid()
    # shared with the workers that are forked
    with tempfile.TemporaryFile() as failure, _folder() as counts:
        config["METRICS_DIR"] = os.environ[metrics.VARIABLE] = counts  # there, gunicorn.conf.py looks for it
        try:
            Gunicorn(f"{host}:{args.port}", workers, config, failure).run()
        finally:
            if os.getpid() == ours:  # behind all that gunicorn says; of several workers' words the first ones
                failure.seek(0)
                sys.stderr.write(failure.readline().decode())


@contextmanager
def _folder() -> Iterator[str]:
    """An empty folder for as long as this process, and not its forked children, lives."""
    path, ours = tempfile.mkdtemp(prefix="cadenza-metrics-"), os.getpid()
    try:
        yield path
    finally:
        if os.getpid() == ours:
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    run()
