"""Named experiments, one module each: data only, loaded by the module's name."""
