"""What must not be screened, and why."""
