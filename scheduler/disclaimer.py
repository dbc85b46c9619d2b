"""What the product is not."""

#: Stands under everything that shows a probability.
DISCLAIMER = "Research and triage aid. Not a diagnosis: a clinician reads every image that matters."
