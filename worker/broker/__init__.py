"""Celery and kombu: the application, its consumer, remote control, transport and notifications."""
