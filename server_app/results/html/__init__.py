"""``report.html``: a run on one page that asks nobody for anything, to be published like report.md."""
