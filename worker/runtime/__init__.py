"""From uint8 pictures to probabilities."""
