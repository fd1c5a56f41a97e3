"""Names of the metrics of private evaluation, for whoever reads a run's files without the libraries that made them."""

PRIVATE_LOSS, PRIVATE_ACCURACY = "private_loss", "private_accuracy"
"""Their standard errors, of the noise alone, are named with ``_error`` behind."""
