"""Targets for a fuzzer. Each module has `SEEDS` to begin with, `REGRESSIONS`, which once broke it, and `one`.

`one` takes any bytes and raises for a result that must not be.

    make fuzz MINUTES=15                 # each target for so long, two at a time; TARGET=midi for one
"""

TARGETS = ("midi", "scores", "archives", "records", "tensors", "cards", "http")
