"""A demonstration of everything, and the examples of the documentation."""
