"""TFRecords → a trained run → a SavedModel."""
