"""A model → how well it predicts real music, and how similar its own is to that."""
