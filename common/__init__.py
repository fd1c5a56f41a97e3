"""What server and clients must agree on; imports neither side."""
