"""Monitoring: metrics for Prometheus, health and readiness."""
