"""Pieces to begin with, made by rules: nobody's work, so free to use."""
