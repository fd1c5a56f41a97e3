"""What imported libraries say to nobody: lines that no user of this app can act on, kept off its terminal.

peft imports bitsandbytes, and many modules peft, so the package ``common``, which all of them need, imports this first.
"""

import logging

_SAID = {
    # a faster CPU kernel from the hub, which is never needed
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # what 8 bits are, once for every layer of every step
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",
}


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line is anything but one of those that bitsandbytes repeats and nobody can act on."""
    return not record.getMessage().startswith(_SAID.get(record.name, "\0"))


for _name in _SAID:
    logging.getLogger(_name).addFilter(is_news)
