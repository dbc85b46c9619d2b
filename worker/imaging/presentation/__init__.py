"""From the stored values of a DICOM file to what a screen shows."""
