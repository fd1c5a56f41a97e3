"""The client side: local training, stage-1 statistics, private release, the site's own policy."""

import common  # noqa: F401 - before any of it imports peft
