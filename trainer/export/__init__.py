"""A trained model → a SavedModel that a model server can load."""
