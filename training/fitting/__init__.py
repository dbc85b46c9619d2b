"""How one backbone is trained."""
