"""A recipe and a dataset → a run folder with checkpoints, metrics and a report."""
