"""Commands for the installation: stack, doctor, database, audit log."""
