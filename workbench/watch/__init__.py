"""``dr-encoder watch``: a page on this machine that follows a run by the files that it writes, and can stop it."""
