"""Notes → sound, pictures and scores, so many at once, each in a thread made for it. Knows nothing of HTTP."""

import os
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any, BinaryIO

from music import audio
from music.notes import Notes
from serving.middleware.concurrency import ConcurrencyLimit

_LIBRARIES = threading.Lock()  # matplotlib and music21 have state of the whole process, which two apps would share


class Renderers:
    """The limits and threads with which one app makes sound, pictures and scores.

    The threads are few and stay: for each thread that ever drew, matplotlib keeps its fonts open, and for each that
    ever synthesized, OpenMP keeps a thread.
    """

    def __init__(self) -> None:
        cores = os.cpu_count() or 1
        self.sound = ConcurrencyLimit("sound", cores, seconds=120)  # more would not be faster, but need more memory
        self.drawing = ConcurrencyLimit("pictures and scores", 1, seconds=120)  # their libraries are not thread-safe
        self._sound_threads = futures.ThreadPoolExecutor(cores, "sound")
        self._drawing_thread = futures.ThreadPoolExecutor(1, "drawing")

    def write_sound(self, notes: Notes, file: BinaryIO, format: str) -> None:
        """Write notes into an open file as sound; `format` is "wav" or "mp3". Raises Overloaded, SoundFontError."""
        with self.sound.take():
            self._sound_threads.submit(audio.write, notes, file, format).result()

    def draw(self, draw: Callable, *args: Any) -> Any:
        """Call `draw` with `args` in the thread for pictures and scores, and return its result. Raises Overloaded."""
        with self.drawing.take():
            return self._drawing_thread.submit(_locked, draw, *args).result()


def _locked(draw: Callable, *args: Any) -> Any:
    with _LIBRARIES:
        return draw(*args)
