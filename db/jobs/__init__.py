"""Cohorts, images and batches: every change of their state."""
