"""What a person runs and a site never needs: commands, simulation, planning, evaluation, comparison, deployment."""

import common  # noqa: F401 - before any of it imports peft
