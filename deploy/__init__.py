"""How pneumoscreen is run: the embedded local stack and what ships with it."""
