"""The gate, which refuses images that must not be screened and says why."""
