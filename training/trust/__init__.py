"""What is learnt with a model so that it can say when not to trust it."""
