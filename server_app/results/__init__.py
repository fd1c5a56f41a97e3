"""What a run leaves behind: folder, checkpoints, report, plots, console."""
