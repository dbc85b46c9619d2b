"""Alembic's environment and one numbered file per change of the tables."""
