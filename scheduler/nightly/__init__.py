"""Screening at set times."""
