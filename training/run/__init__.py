"""A training run, from its claim to its report."""
