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
from music.command_line import fail
from music.errors import MusicError
from music.generation import CHUNK
from serving import DEFAULTS, create_app, remote, token_of
from serving.backends.embedded import find_model
from serving.middleware import access_log, api_keys, cors, metrics, rate_limit

_ABOUT_SERVERS = ("model_name", "label", "xla", "tls", "ca", "identity_token", "token_file", "token_env")
_WITHOUT_TLS = ("model_name", "label", "xla", "tls")  # of these the ones that plain text may have


class Gunicorn(Application):
    """gunicorn, configured by our file and flags instead of its own command line.

    `failure` is an open file. A worker that cannot serve writes one line to it that says why.
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
        """Make the application; each worker does so after the fork.

        Raises:
            AppImportError: the worker cannot serve. gunicorn logs it as one line without a traceback, and stops all.
        """
        access_log.open_logs()
        try:
            return create_app(self._config)
        except MusicError as error:
            self._failure.write(f"python -m serving: {' '.join(str(error).split())}\n".encode())
            self._failure.flush()
            raise AppImportError("this worker cannot serve; the last line says why") from error


def arguments() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    usage, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("python -m serving", description=usage)
    for add in (_add_model, _add_model_server, _add_address, _add_pieces, _add_clients):
        add(parser)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model, in this process or behind a TF Serving")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--model", metavar="DIR", help="a SavedModel: version, model or base folder; default: models/")
    where.add_argument("--server", metavar="HOST:PORT", help="gRPC address of a TF Serving; default: none")
    group.add_argument(
        "--warm", action="store_true",
        help="compile --model for 32 clients at the start; default: when so many clients come",
    )  # fmt: skip


def _add_model_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with --server")
    group.add_argument("--model-name", metavar="NAME", help="the model's name on that server; required")
    group.add_argument(
        "--label",
        metavar="NAME",
        help="label of the version that new pieces begin with, such as stable; default: the latest",
    )
    group.add_argument(
        "--xla", action="store_true",
        help="call compiled signatures: of a server started with --xla_cpu_compilation_enabled and a model of "
        "`trainer export --xla`; default: plain signatures",
    )  # fmt: skip
    group.add_argument("--tls", action="store_true", help="encrypt the connection by TLS; default: plain text")
    group.add_argument(
        "--ca", metavar="FILE", help="PEM file of the authorities that sign its certificate; default: the public ones"
    )
    token = group.add_mutually_exclusive_group()
    token.add_argument(
        "--identity-token", nargs="?", const=True, metavar="AUDIENCE",
        help="send Google's ID tokens, as Cloud Run requires; default audience: https:// and the server's host",
    )  # fmt: skip
    token.add_argument("--token-file", metavar="FILE", help="send the token in this file, read again for each call")
    token.add_argument(
        "--token-env", metavar="NAME", help="send the token in this environment variable; default: send no token"
    )


def _add_address(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it listens")
    group.add_argument("--host", default="127.0.0.1", help="name or IP address to listen at; default: %(default)s")
    group.add_argument(
        "--port", type=int, default=os.environ.get("PORT", 8080), metavar="N",
        help="TCP port to listen at, 0 to 65535; 0: a free one; default: $PORT, or 8080",
    )  # fmt: skip


def _add_pieces(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pieces")
    group.add_argument(
        "--originality", metavar="FILE",
        help="index of the training set, for /generate?originality=true; default: the one in the model's folder",
    )  # fmt: skip
    group.add_argument(
        "--chunk", type=int, default=CHUNK, metavar="N",
        help=f"largest number of notes that one call of the model draws, 1 to {CHUNK}; default: %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--timeout",
        type=float,
        default=DEFAULTS["TIMEOUT"],
        metavar="SECONDS",
        help="seconds that one call of the model may take; default: %(default)g",
    )
    group.add_argument(
        "--piece-timeout", type=float, default=DEFAULTS["PIECE_TIMEOUT"], metavar="SECONDS",
        help="seconds that a whole piece may take, its client's pauses included; inf: no limit; default: %(default)g",
    )  # fmt: skip


def _add_clients(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("clients")
    group.add_argument(
        "--rate", type=float, metavar="N",
        help="requests a minute that each process accepts for one key, or for one address; default: no limit",
    )  # fmt: skip
    group.add_argument(
        "--proxies", type=int, default=DEFAULTS["PROXIES"], metavar="N",
        help="number of proxies before this server that add the client's address to X-Forwarded-For, for --rate; "
        "default: %(default)s, which ignores the header",
    )  # fmt: skip
    group.add_argument(
        "--api-keys-file", metavar="FILE",
        help="accept only requests with one of the keys in this file, one a line; default: all requests",
    )  # fmt: skip
    group.add_argument(
        "--api-keys-env", metavar="NAME",
        help="accept only requests with one of the keys in this environment variable; default: all requests",
    )  # fmt: skip
    group.add_argument(
        "--cors-origin", action="append", default=[], metavar="ORIGIN",
        help="an origin whose scripts may call the API from a browser, as https://music.example, or '*' for all; "
        "may be given several times; default: none",
    )  # fmt: skip


def run(argv: Sequence[str] | None = None) -> None:
    """Serve until stopped; exit with 2 where the command line is at fault, with 4 if no model can be loaded."""
    parser = arguments()
    args = parser.parse_args(argv)
    _check_server_flags(parser, args)
    _check_numbers(parser, args)
    try:
        config = _config(args)
    except (MusicError, OSError) as error:
        sys.exit(fail("python -m serving", error, 2))
    _serve(_bind(args.host, args.port), _workers(args.server), config)


def _check_server_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with 2 where flags do not fit together."""
    if bool(args.server) != bool(args.model_name):
        parser.error("--server and --model-name belong together")
    for flag in _ABOUT_SERVERS:
        name, value = f"--{flag.replace('_', '-')}", getattr(args, flag)
        if value == "":
            parser.error(f"{name}: expected a value, got an empty one")
        if value and not args.server:
            parser.error(f"{name} is about a --server")
        if value and flag not in _WITHOUT_TLS and not args.tls:
            parser.error(f"{name} needs --tls: certificates and tokens are not for plain text")
    if args.warm and args.server:
        parser.error("--warm is about a model in this process, not about a --server")


def _check_numbers(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with 2 where a number is out of its range."""
    if not 0 <= args.port <= 65535:
        parser.error(f"--port: expected 0 to 65535, got {args.port}")
    if not 1 <= args.chunk <= CHUNK:
        parser.error(f"--chunk: expected 1 to {CHUNK}, got {args.chunk}")
    for name, seconds in (("--timeout", args.timeout), ("--piece-timeout", args.piece_timeout)):
        if not seconds > 0:
            parser.error(f"{name}: expected more than 0 seconds, got {seconds:g}")
    if args.proxies < 0:
        parser.error(f"--proxies: expected 0 or more, got {args.proxies}")


def _config(args: argparse.Namespace) -> dict:
    """Translate the flags into the application's configuration, and check what can be checked before the fork.

    Raises:
        MusicError, OSError: a value is wrong, a file is missing or damaged, or there is no model or no token.
    """
    config = {"CHUNK": args.chunk, "TIMEOUT": args.timeout, "PIECE_TIMEOUT": args.piece_timeout}
    config |= {"ORIGINALITY": args.originality, "CORS_ORIGINS": args.cors_origin}
    config |= {"RATE": args.rate, "PROXIES": args.proxies}
    config |= {"API_KEYS_FILE": args.api_keys_file, "API_KEYS_ENV": args.api_keys_env}
    cors.check(args.cors_origin)
    api_keys.read(DEFAULTS | config)
    if args.rate is not None:
        rate_limit.Rate(args.rate)
    if args.originality is not None:
        memorization.read(args.originality)
    return config | (_server_config(args) if args.server else _model_config(args))


def _server_config(args: argparse.Namespace) -> dict:
    config = {"SERVER": args.server} | {flag.upper(): getattr(args, flag) for flag in _ABOUT_SERVERS}
    remote(config)
    if token := token_of(config):
        token.bearer()  # now, as without one no call will ever be answered
    return config


def _model_config(args: argparse.Namespace) -> dict:
    return {"MODEL": str(find_model(args.model)), "WARM": args.warm}


def _workers(server: str | None) -> int | None:
    """Choose the number of processes; None leaves gunicorn its own default: one, or $WEB_CONCURRENCY."""
    return 2 * (os.cpu_count() or 1) if server and "WEB_CONCURRENCY" not in os.environ else None


def _bind(host: str, port: int) -> str:
    """Join host and port for gunicorn; an IPv6 address needs brackets."""
    return f"[{host}]:{port}" if ":" in host and host[0] != "[" else f"{host}:{port}"


def _serve(bind: str, workers: int | None, config: dict) -> None:
    """Run gunicorn, and print at the end why a worker could not serve."""
    parent = os.getpid()
    # shared with the workers that are forked
    with tempfile.TemporaryFile() as failure, _folder() as counts:
        config["METRICS_DIR"] = os.environ[metrics.VARIABLE] = counts  # gunicorn.conf.py looks for it there
        try:
            Gunicorn(bind, workers, config, failure).run()
        finally:
            if os.getpid() == parent:  # after all lines of gunicorn's; of several workers the first one's line
                failure.seek(0)
                sys.stderr.write(failure.readline().decode())


@contextmanager
def _folder() -> Iterator[str]:
    """Make an empty folder, and remove it when this process ends its block, but not when a forked child does."""
    path, parent = tempfile.mkdtemp(prefix="cadenza-metrics-"), os.getpid()
    try:
        yield path
    finally:
        if os.getpid() == parent:
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    run()
