"""The server side: strategies, rounds, stage 1, privacy plan and account, results."""
