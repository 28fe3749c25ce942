"""A trained model → a SavedModel that a server can load."""
