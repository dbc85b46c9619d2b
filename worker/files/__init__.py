"""Files behind every kind of URL, and the roots that they must lie in."""
