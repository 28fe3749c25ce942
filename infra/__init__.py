"""How Cadenza runs: the demo, the images and the cloud. No library code."""
