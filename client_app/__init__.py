"""The client side: local training, stage-1 statistics, private release, the site's own policy."""
