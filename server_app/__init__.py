"""The server side: strategies, stage 1, privacy plan and account, results, and the launcher."""
