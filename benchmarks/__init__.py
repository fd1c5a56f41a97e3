"""Measurements of speed and size, as ratios within one run. Not tests: nothing here passes or fails."""

import common  # noqa: F401 - before any of it imports peft
