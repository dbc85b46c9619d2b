"""Takes sources in: one module per kind of source."""
