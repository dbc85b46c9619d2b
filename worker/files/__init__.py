"""Files of every kind of URL, and where they may lie."""
