"""The strategies by name. A new one is one file and one line here."""

from server_app.strategies.base import FederatedAdapter
from server_app.strategies.dr_encoder import DrEncoder
from server_app.strategies.lora import Lora

STRATEGIES: dict[str, type[FederatedAdapter]] = {
    "dr-encoder": DrEncoder,
    "lora": Lora,
}
