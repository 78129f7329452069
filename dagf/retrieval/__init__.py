"""Descriptors, search, and how good a ranking is."""
