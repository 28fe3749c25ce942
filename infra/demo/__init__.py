"""The demo, and the examples of the documentation."""
