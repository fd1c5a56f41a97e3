"""Entry point of the ClientApp, under a name that nothing else has.

Ray puts the directory in which a simulation was started ahead of the installed app, so a stray ``client_app/`` or
``common/`` there would be imported instead of this app's. Flower finds this module by its name alone; it puts its own
directory first and drops strays that were imported already.
"""

import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parent
_PACKAGES = ("client_app", "common")


def _is_stray(module: ModuleType) -> bool:
    places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
    return not any(Path(str(place)).resolve().is_relative_to(_ROOT) for place in places)


for _name, _module in sys.modules.copy().items():  # in one step: the ServerApp of a simulation imports in a thread
    if _name.split(".", maxsplit=1)[0] in _PACKAGES and _is_stray(_module):
        sys.modules.pop(_name, None)
while str(_ROOT) in sys.path:
    sys.path.remove(str(_ROOT))
sys.path.insert(0, str(_ROOT))

from flwr.app import Context, Message  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from client_app.resident import answer, in_flower_client_process  # noqa: E402 - only now are they this app's

if in_flower_client_process():  # a process for this one message: nothing heavy is imported, the worker has it
    from client_app.stopping import stoppable

    _answer = stoppable(answer)
else:
    from client_app.app import app as _answer

app = ClientApp()


# Ray pickles a ClientApp's handlers by module and name, so they must live here to be found here.
@app.train()
def train(message: Message, context: Context) -> Message:
    """Stage 2, see ``client_app.app.plan_round``."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Private evaluation, see ``client_app.app.plan_scores``."""
    return _answer(message, context)


@app.query("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Stage 1, see ``client_app.app.plan_statistics``."""
    return _answer(message, context)


@app.query("gradients")
def gradients(message: Message, context: Context) -> Message:
    """Stage 1 of FedCG, see ``client_app.app.plan_gradients``."""
    return _answer(message, context)


@app.query("keys")
def keys(message: Message, context: Context) -> Message:
    """Secure aggregation, a key for one run: see ``client_app.secure.keys``."""
    return _answer(message, context)


@app.query("peers")
def peers(message: Message, context: Context) -> Message:
    """Secure aggregation, everybody's keys: see ``client_app.secure.peers``."""
    return _answer(message, context)


@app.query("repair")
def repair(message: Message, context: Context) -> Message:
    """Secure aggregation, what to do without those who are missing: see ``client_app.secure.repair``."""
    return _answer(message, context)
