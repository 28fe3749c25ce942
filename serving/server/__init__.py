"""gunicorn, and the worker that serves with it."""
