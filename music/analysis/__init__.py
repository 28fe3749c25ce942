"""Notes → counts and comparisons: statistics, similarity and memorization."""
