"""Seeds written for this project, so free to use."""
