"""Programs to read first."""
