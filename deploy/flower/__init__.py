"""Flower, which shows workers, tasks and queues: its settings and its limits."""
