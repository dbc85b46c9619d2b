"""The runtime of PyTorch, for GPUs and CPUs, and what training shares with it."""
