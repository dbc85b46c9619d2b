"""`python -m scheduler` is `pneumoscreen`."""

from scheduler.cli import main

main()
