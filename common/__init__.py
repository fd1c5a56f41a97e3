"""What server and clients must agree on; imports neither side."""

import common.model.quiet_imports  # noqa: F401 - acts by being imported, before anything imports peft
import common.no_compiling  # noqa: F401 - the same
import common.private_caches  # noqa: F401 - the same
