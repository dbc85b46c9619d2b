"""Training, evaluation and promotion of challengers."""
