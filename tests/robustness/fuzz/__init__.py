"""Targets for a fuzzer: each module has `SEEDS`, to begin with, `FOUND`, what once broke it, and `one`, which takes any
bytes and raises for what must not be.

    make fuzz MINUTES=15                 # each target for so long, two at a time; TARGET=midi for one
"""

TARGETS = ("midi", "archives", "records", "tensors", "cards", "http")
