"""Commands for cohorts, labels and nightly runs."""
