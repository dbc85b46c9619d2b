"""The report of a comparison: `report.json`, and `report.html` for people."""
