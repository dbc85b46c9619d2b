"""Claims batches, decodes and predicts, and writes the results back."""
