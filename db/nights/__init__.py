"""Nightly runs and the files that they know."""
