"""A finished request → one line of JSON, and an error → lines with the id of its request.

No line holds music, or anything that could generate it again: no body, file name, query or random seed. Nothing that a
client sends can end a line: each is JSON, with no more of the request than its method, its route and a sane id.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from serving.middleware import request_context
from serving.middleware.request_context import RequestContext

GONE = 499  # nginx' number for a client that closed the connection before the reply's end
_log = logging.getLogger("serving.access")


def status_of(context: RequestContext) -> int:
    """Return the status that log and metrics count."""
    return GONE if context.client_closed else context.status


def write(context: RequestContext) -> None:
    """Log a request that has ended."""
    if _log.isEnabledFor(logging.INFO):
        _log.info(line(context))


def line(context: RequestContext) -> str:
    """Write a request as one line of JSON; what does not apply is left out."""
    facts = {
        "time": _now(),
        "request_id": context.id,
        "method": context.method,
        "route": context.route,
        "status": status_of(context),
        "seconds": round(context.seconds, 4),
        "client_closed": context.client_closed,
        "error": context.error,
        "format": context.format,
        "model": context.model,
        "notes": context.notes,
    }
    return json.dumps({name: value for name, value in facts.items() if value is not None or name == "route"})


class Errors(logging.Formatter):
    """A record → one line of JSON, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": _now(),
            "level": record.levelname,
            "request_id": request_context.current_id(),
            "message": record.getMessage(),
            "traceback": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in facts.items() if value is not None})


def printable(record: logging.LogRecord) -> bool:
    """Let a record pass, with \\x1b for what would move a terminal's cursor or end a line."""
    text = record.getMessage()
    record.msg, record.args = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), ()
    return True


def open_logs(out: TextIO | None = None, errors: TextIO | None = None) -> None:
    """Let this process write its requests to `out`, else standard output, and its errors to `errors`."""
    access_handler, errors_handler = logging.StreamHandler(out or sys.stdout), logging.StreamHandler(errors)
    access_handler.setFormatter(logging.Formatter("%(message)s"))
    errors_handler.setFormatter(Errors())
    for logger, handler in ((_log, access_handler), (logging.getLogger("serving"), errors_handler)):
        logger.handlers = [handler]
        logger.propagate = False
    _log.setLevel(logging.INFO)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
