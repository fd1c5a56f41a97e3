"""Secure aggregation, without Flower, files or configuration: keys, who is paired with whom, masks modulo 2^m."""
