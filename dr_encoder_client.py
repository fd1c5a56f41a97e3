"""Entry point of the ClientApp, under a name that nothing else has.

Ray puts the directory in which a simulation was started ahead of the installed app, so a stray ``client_app/`` or
``common/`` there would be imported instead of this app's. Flower finds this module by its name alone; it puts its own
directory first and drops strays that were imported already.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent
_PACKAGES = ("client_app", "common")


def _is_stray(name: str) -> bool:
    module = sys.modules[name]
    places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
    return name.split(".", maxsplit=1)[0] in _PACKAGES and not any(
        Path(str(p)).resolve().is_relative_to(_ROOT) for p in places
    )


for _name in [name for name in sys.modules if _is_stray(name)]:
    del sys.modules[_name]
while str(_ROOT) in sys.path:
    sys.path.remove(str(_ROOT))
sys.path.insert(0, str(_ROOT))

from flwr.app import Context, Message  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from client_app import app as _client  # noqa: E402 - only now is it this app's

app = ClientApp()


# Ray pickles a ClientApp's handlers by module and name, so they must live here to be found here.
@app.train()
def train(message: Message, context: Context) -> Message:
    """Stage 2, see ``client_app.app.train``."""
    return _client.app(message, context)


@app.query("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Stage 1, see ``client_app.app.statistics``."""
    return _client.app(message, context)
