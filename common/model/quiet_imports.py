"""What imported libraries say to nobody: lines that no user of this app can act on, kept off its terminal.

peft imports bitsandbytes, and many modules peft, so the package ``common``, which all of them need, imports this first.
"""

import logging

_BITSANDBYTES = "bitsandbytes.backends.cpu.ops"
_OPTIONAL_KERNEL = "Failed to load CPU gemm_4bit_forward"  # a faster CPU kernel from the hub, which is never needed


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line is anything but bitsandbytes' regret about its optional CPU kernel."""
    return not record.getMessage().startswith(_OPTIONAL_KERNEL)


logging.getLogger(_BITSANDBYTES).addFilter(is_news)
