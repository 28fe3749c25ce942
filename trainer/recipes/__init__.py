"""Named experiments, one module each: data only, found by their module's name."""
