"""Raster files: JPEG, PNG, TIFF, BMP, JPEG 2000 and JPEG-LS."""
