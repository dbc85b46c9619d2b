"""The screening worker: it claims batches, decodes and predicts, and writes the results back."""
