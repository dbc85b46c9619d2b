"""The disclaimer: the product makes no diagnosis."""

#: Shown wherever a probability is shown.
DISCLAIMER = "Research and triage aid. Not a diagnosis: a clinician reads every image that matters."
