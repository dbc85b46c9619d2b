"""The settings, restrictions and state of Flower, which shows workers, tasks and queues."""
