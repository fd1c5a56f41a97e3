"""Scores of a finished adapter."""
