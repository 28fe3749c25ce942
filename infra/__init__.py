"""How Cadenza runs: the demo here, later the cloud. No library code."""
