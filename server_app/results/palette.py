"""The colors of charts and pages."""

PALETTE = {
    "ink": "#1d2329", "muted": "#6b7480", "grid": "#d9dee4", "blue": "#1f5fa8", "orange": "#c25e0c", "teal": "#12806f",
    "purple": "#7a4fa3", "olive": "#7d7a14", "red": "#b8324a", "brown": "#8a5a3b", "pink": "#b04a8f",
}  # fmt: skip
"""The colors on paper, each at least 3:1 against it; report.html has others for the dark."""
