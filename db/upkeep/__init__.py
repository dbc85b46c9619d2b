"""Backup, archive, migration and the site key."""
