"""The acceptance of a model at a site: how many images it takes, what is measured, and the verdict."""
