"""Flower's deployment engine on one machine: real processes, TLS, registered nodes; what a real federation runs too."""
