"""The computation of probabilities from uint8 pictures."""
