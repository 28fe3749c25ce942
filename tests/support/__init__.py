"""Code that tests share: doubles, strategies, goldens."""
