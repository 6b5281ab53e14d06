"""A model as files that other programs read."""
