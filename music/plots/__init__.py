"""Notes and statistics → pictures."""
