"""What a strategy knows at the end of a run beside what every run reports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Findings:
    """Nothing more. A strategy's own hold what ``FederatedAdapter.measure`` found, however long that took."""

    def details(self) -> dict[str, object]:
        """What the report has of it under ``strategy`` (plain JSON values; nothing private); computes nothing.

        ``summary``, if there is one, is a sentence for ``report.md`` and the terminal; ``figures``: numbers to compare.
        """
        return {}
