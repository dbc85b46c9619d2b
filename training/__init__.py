"""Builds, evaluates and promotes challengers."""
