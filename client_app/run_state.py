"""A client's Flower state as one run's: what another run has left there is nobody else's to ask after.

Flower 1.41 keeps the state for a *series* of runs, and its Control API lets any submitter start a run in the series of
another's. The SuperNode then hands both runs one state and the configuration of whichever came last. What is kept of a
run's instructions tells when a site was asked, hence secret cohorts, and its secrets of secure aggregation would answer
for another run. So both go when another run's instruction comes; the site's ledger stays, which counts all runs.
"""

from flwr.app import ConfigRecord, Context, Message

from client_app import holdings, seat
from client_app.node_config import PolicyRefusal

RECORD = "run"
_OF_A_RUN = (holdings.RECORD, seat.RECORD, seat.AGAIN)


def enter_run(message: Message, context: Context) -> None:
    """Leave in the state nothing that another run has put there, but for the ledger.

    ``PolicyRefusal`` for a message of another run than the configuration that comes with it: that run's say nothing of
    what this one asks.
    """
    if message.metadata.run_id != context.run_id:
        raise PolicyRefusal(
            "this site refuses: another run was started in this run's series, and Flower hands out one configuration "
            "for both; start each run in a series of its own, as flwr run does"
        )
    own, kept = f"{context.run_id:x}", context.state.get(RECORD)
    if isinstance(kept, ConfigRecord) and kept.get("id") == own:
        return
    for name in (RECORD, *_OF_A_RUN):
        context.state.pop(name, None)
    context.state[RECORD] = ConfigRecord({"id": own})
