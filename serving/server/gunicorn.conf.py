"""gunicorn's settings for the front end; `python -m serving` adds the address and the number of processes.

One process when the model is embedded (TensorFlow and the compiled functions take 1.5 GB in each), two a core before a
model server.
"""

import ctypes
import os
import resource
from contextlib import suppress

from serving.middleware import metrics

with suppress(AttributeError, OSError, TypeError):  # a C library that is not glibc
    # M_ARENA_MAX, for the workers as well: else each of the many threads keeps an arena of free memory. With only two
    # arenas, the threads that multiply would wait for each other (15 % of a piece's time)
    ctypes.CDLL(None).mallopt(-8, 4 * (os.cpu_count() or 1))
worker_class = "serving.server.worker.Worker"
threads = 80  # more than all pieces and files (MAX_GENERATIONS, requests.READERS, WAITING): so some can answer 429
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)  # more wait in the kernel
keepalive = 5  # seconds that a connection stays open for another request
sendfile = False  # it would wait without a deadline; `Socket` limits the other ways to send
preload_app = False  # neither TensorFlow nor gRPC survives a fork
timeout = 120  # seconds without a sign of life until a worker is killed; it must have loaded its model by then
graceful_timeout = 30  # seconds that running pieces have to end after SIGTERM
control_socket_disable = True  # it would leave a file in the user's home directory


def child_exit(server, worker) -> None:
    """Remove a dead worker's running requests from the metrics."""
    metrics.forget(worker.pid, os.environ.get(metrics.VARIABLE))
