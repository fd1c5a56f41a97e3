"""What a person or a machine's services run: commands, simulation, planning, evaluation, comparison, deployment."""

import common  # noqa: F401 - before any of it imports peft
