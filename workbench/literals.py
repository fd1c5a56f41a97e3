"""Numbers as people write them."""


def float_of(text: str) -> float:
    """The number of a decimal literal, for TOML's reader.

    ``ValueError`` where a float cannot hold it: 1e-400 would be 0 and 1e400 inf, which often have a meaning of their
    own ("as much as can be", "none").
    """
    value = float(text)
    mantissa = text.lower().partition("e")[0]
    if (value == 0 and mantissa.strip("+-0._")) or (abs(value) == float("inf") and "inf" not in text):
        raise ValueError(f"{text} is beyond what a float can hold; the smallest are about 1e-308, the largest 1e308")
    return value
