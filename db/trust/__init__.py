"""How far predictions can be trusted: what batches held, and how it compares with the training hospital."""
