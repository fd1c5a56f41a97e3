"""Clipping, noise, sampling, accounting, ledger: independent of each other, joined by ``mechanism``."""
