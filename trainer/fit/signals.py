"""SIGTERM and Ctrl-C → a wish to stop, granted where training can go on from later. Knows nothing of training.

A spot VM that is taken away sends SIGTERM and is gone some 30 seconds later. While training, the wish waits for the end
of the step; at any other time there is nothing to keep, and the process ends at once. The handlers stand from the first
second on because Linux ignores a SIGTERM that process 1, as a container's command is, has no handler for.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from music.errors import MusicError


class Stopped(MusicError):
    """Training ended by a signal, with its progress written."""

    def __init__(self, number: int, where: str):
        super().__init__(f"{signal.Signals(number).name}: stopped {where}; the same command goes on from there")
        self.exit_code = 128 + number  # as a shell says it: 143 for SIGTERM, 130 for Ctrl-C


class Stop:
    """Which signal asked to stop, if one did; `training` is True while somebody looks at it after each step."""

    signal: int | None = None
    training = False

    def handle(self, number: int, frame=None) -> None:
        """A second Ctrl-C does not wait for the step; SIGTERM again changes nothing, as the first is being seen to."""
        if not self.training or (self.signal is not None and number == signal.SIGINT):
            sys.exit(128 + number)
        if self.signal is None:
            self.signal = number
            name = signal.Signals(number).name
            # not through sys.stderr, which may be in the middle of a write
            os.write(2, f"{name}: this step, a checkpoint, then the end\n".encode())

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which a signal waits to be looked at."""
        self.training = True
        try:
            yield
        finally:
            self.training = False


@contextlib.contextmanager
def signals() -> Iterator[Stop]:
    """A Stop that hears SIGTERM and Ctrl-C in this block, which runs in the main thread."""
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
