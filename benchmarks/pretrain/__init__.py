"""Makes the embedded model from its facts."""
