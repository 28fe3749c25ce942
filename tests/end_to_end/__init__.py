"""Tests of all stages together."""
