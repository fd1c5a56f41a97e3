"""The rounds: cohorts, their state, the optimizer."""
