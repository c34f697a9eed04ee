"""Doors to other packages; each plugin is imported by its own name."""
