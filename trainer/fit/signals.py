"""SIGTERM and Ctrl-C → a request to stop, which training looks at after each step. Knows nothing of training.

A spot VM gets SIGTERM and is switched off some 30 seconds later. At any time but training there is nothing to write,
and the process ends at once. The handlers are set from the first second on: a container's command is process 1, and
Linux ignores a SIGTERM that process 1 has no handler for.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from music.errors import MusicError


class Stopped(MusicError):
    """A signal ended the training, and its progress is written."""

    def __init__(self, number: int, where: str):
        super().__init__(f"{signal.Signals(number).name}: stopped {where}; the same command goes on from there")
        self.exit_code = 128 + number  # as a shell says it: 143 for SIGTERM, 130 for Ctrl-C


class Stop:
    """The signal that asked to stop, if one did; `training` is True while training looks at it after each step."""

    signal: int | None = None
    training = False

    def handle(self, number: int, frame=None) -> None:
        """Remember a signal, or end the process: outside training, and at a second Ctrl-C.

        A second SIGTERM changes nothing, as the first one is already being obeyed.
        """
        if not self.training or (self.signal is not None and number == signal.SIGINT):
            sys.exit(128 + number)
        if self.signal is None:
            self.signal = number
            name = signal.Signals(number).name
            # not through sys.stderr, which may be in the middle of a write
            os.write(2, f"{name}: this step, a checkpoint, then the end\n".encode())

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Open a block in which a signal does not end the process but waits to be looked at."""
        self.training = True
        try:
            yield
        finally:
            self.training = False


@contextlib.contextmanager
def signals() -> Iterator[Stop]:
    """Open a block in which a Stop receives SIGTERM and Ctrl-C; the main thread must run it."""
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
