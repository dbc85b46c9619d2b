"""Labelled images and how they are fed to training."""
