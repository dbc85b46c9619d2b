"""Commands for models and training runs."""
