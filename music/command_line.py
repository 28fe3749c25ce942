"""Why a command ends early → a line on stderr and an exit status. Knows no command."""

import sys

from music.errors import Unreachable

LATER = 75  # EX_TEMPFAIL of sysexits.h: a bucket gave no good answer, and may give one later


def fail(program: str, why: object, status: int | None = None) -> int:
    """Print why a command ends early; return its exit status.

    Args:
        why: an error that the user can mend, or its text.
        status: None: LATER for an Unreachable, 2 for all else.
    """
    print(f"{program}: {why}", file=sys.stderr)
    if status is None:
        return LATER if isinstance(why, Unreachable) else 2
    return status
