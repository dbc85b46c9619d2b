"""Takes cohorts in, hands batches out, and shows and exports what came of them."""
