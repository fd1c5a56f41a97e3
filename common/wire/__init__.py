"""What travels: records, the arrays within them, the digest of the code that made them."""
