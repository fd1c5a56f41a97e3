"""Runs on one machine: Flower's simulation engine, and an in-process grid."""
