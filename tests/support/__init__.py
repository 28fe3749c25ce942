"""What tests share: doubles, strategies, goldens."""
