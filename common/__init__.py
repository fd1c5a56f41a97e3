"""What server and clients must agree on; imports neither side."""

import common.import_noise  # noqa: F401 - acts by being imported, before anything imports peft
