"""Measures of a model, and the comparison of two."""
