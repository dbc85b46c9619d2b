"""What speaks against trust in a prediction: an unfamiliar picture, or one outside of the intended use."""
