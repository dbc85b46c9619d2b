"""Training runs and labels."""
