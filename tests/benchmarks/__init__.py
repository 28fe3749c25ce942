"""Tests of what benchmarks count."""
