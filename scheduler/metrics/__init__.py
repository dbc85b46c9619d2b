"""What monitoring asks: metrics for Prometheus, health and readiness."""
