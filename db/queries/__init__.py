"""What status, exports, metrics and pages read. Nothing here writes."""
