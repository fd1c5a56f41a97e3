"""The server side: strategies, rounds, stage 1, privacy plan and account, results."""

import common  # noqa: F401 - before any of it imports peft
