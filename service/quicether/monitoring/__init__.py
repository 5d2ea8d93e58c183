"""What others may watch of a tunnel: metrics for Prometheus, and whether it is healthy."""
