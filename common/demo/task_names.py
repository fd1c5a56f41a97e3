"""The names of the embedded model's private tasks; imports nothing heavy."""

from typing import get_args

from common.config import DemoTask

TASKS: tuple[str, ...] = get_args(DemoTask)
VALIDATION = {"elicitation": "elicitation-validation", "knowledge": "knowledge-validation"}
"""For every private task the one that is scored on other, public facts: what a run decides, it decides on them."""
