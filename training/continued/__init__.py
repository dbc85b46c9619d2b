"""Training that goes on from a registered model, on a site's few labels."""
