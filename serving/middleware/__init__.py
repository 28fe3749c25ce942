"""The steps that each request passes, from its context to CORS; and concurrency limits, log and metrics."""
