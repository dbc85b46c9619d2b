"""Queries for status, exports, metrics and pages. None of them writes."""
