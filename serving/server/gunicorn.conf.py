"""How gunicorn runs the front end; `python -m serving` adds the address and the number of processes.

One process when the model is embedded (TensorFlow with what it has compiled is 1.5 GB in each), two a core before a
model server.
"""

import ctypes
import os
import resource
from contextlib import suppress

from serving.middleware import metrics

with suppress(AttributeError, OSError, TypeError):  # a C library that is not glibc
    # M_ARENA_MAX, for the workers as well: so many threads would each come to keep free memory of their own; but with
    # two such arenas for all, those that multiply wait for each other (15 % of a piece)
    ctypes.CDLL(None).mallopt(-8, 4 * (os.cpu_count() or 1))
worker_class = "serving.server.worker.Worker"
threads = 80  # above all the pieces and files (MAX_GENERATIONS, requests.READERS, WAITING): some are left to say 429
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)  # the rest waits in the kernel
keepalive = 5  # seconds that a connection is kept for another request
preload_app = False  # neither TensorFlow nor gRPC survives a fork
timeout = 120  # seconds; a worker counts as dead after so long, and loading a model is its first act
graceful_timeout = 30  # seconds that pieces in the making have when we are told to stop
control_socket_disable = True  # it would leave a file in the user's home


def child_exit(server, worker) -> None:
    """What a process had in flight is no more when it is gone."""
    metrics.forget(worker.pid, os.environ.get(metrics.VARIABLE))
