"""From the Pixel Data of a DICOM file to its stored values."""
