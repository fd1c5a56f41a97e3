"""Sizes, memory and budgets before a run."""
