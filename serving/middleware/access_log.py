"""A finished visit → one line of JSON, and what goes wrong → lines that bear its request's id.

There is no music in them, nor anything that could make it again: no body, name of a file, query or random seed. Nothing
that a caller chose can end a line: it is JSON, with no more of the request than method, route and a sane id.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from serving.middleware import request_context
from serving.middleware.request_context import Visit

GONE = 499  # nginx' number for a listener who left before the reply had ended
_log = logging.getLogger("serving.access")


def status_of(visit: Visit) -> int:
    """The status as we count it."""
    return GONE if visit.gone else visit.status


def write(visit: Visit) -> None:
    """Log a visit that has ended."""
    if _log.isEnabledFor(logging.INFO):
        _log.info(line(visit))


def line(visit: Visit) -> str:
    """One line of JSON; what does not apply is left out."""
    facts = {
        "time": _now(),
        "request_id": visit.id,
        "method": visit.method,
        "route": visit.route,
        "status": status_of(visit),
        "seconds": round(visit.seconds, 4),
        "client_closed": visit.gone,
        "error": visit.error,
        "format": visit.format,
        "model": visit.model,
        "notes": visit.notes,
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
    """Let this process write its visits to `out`, else standard output, and its errors to `errors`."""
    visits_handler, errors_handler = logging.StreamHandler(out or sys.stdout), logging.StreamHandler(errors)
    visits_handler.setFormatter(logging.Formatter("%(message)s"))
    errors_handler.setFormatter(Errors())
    for logger, handler in ((_log, visits_handler), (logging.getLogger("serving"), errors_handler)):
        logger.handlers = [handler]
        logger.propagate = False
    _log.setLevel(logging.INFO)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
