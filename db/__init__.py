"""The job table: the truth about every cohort, image, batch, prediction and model."""
