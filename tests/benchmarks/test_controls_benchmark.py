"""What benchmarks/controls measures, on music whose values are known."""

import numpy as np
import pytest

from benchmarks.controls import discriminant, measured
from music import notes as nt


def test_density_and_loudness_are_the_pieces_own():
    notes = nt.from_columns(np.arange(101) / 10, np.arange(101) / 10 + 0.1, 60, np.arange(101) % 2 * 20 + 50)
    assert measured("density", notes) == pytest.approx(10.1)
    assert measured("loudness", notes) == pytest.approx(59.9, abs=0.05)


def test_a_discriminant_finds_the_class_of_new_points():
    rng = np.random.default_rng(1)
    labels = np.arange(300) % 3
    centres = np.array([[0, 0, 0, 0], [3, 0, 0, 0], [0, 3, 0, 5]])
    classify = discriminant(centres[labels] + rng.normal(size=(300, 4)), labels * 2)
    assert np.mean(classify(centres[labels] + rng.normal(size=(300, 4))) == labels * 2) > 0.85
