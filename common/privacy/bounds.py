"""What a clip norm may be, for the configuration and for clipping itself; imports nothing."""

SMALLEST_BOUND, LARGEST_BOUND = 1e-30, 1e30
