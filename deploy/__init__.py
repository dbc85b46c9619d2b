"""The embedded local stack, the default model, and the files for other deployments."""
