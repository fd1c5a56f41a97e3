"""What a person runs and a site never needs: commands, simulation, planning, evaluation, comparison, deployment."""
