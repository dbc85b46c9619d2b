"""The scheduler: intake of cohorts, dispatch of batches, status and export of results."""
