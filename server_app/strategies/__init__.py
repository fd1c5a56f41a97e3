"""The strategies by name. A new one is one file and one line here."""

from server_app.strategies.base import FederatedAdapter
from server_app.strategies.dr_encoder import DrEncoder
from server_app.strategies.fedcg import FedCg
from server_app.strategies.fedlpp import FedLpp
from server_app.strategies.history_prior import HistoryPrior
from server_app.strategies.lora import Lora
from server_app.strategies.public_prior import PublicPrior
from server_app.strategies.random_projection import RandomProjection

STRATEGIES: dict[str, type[FederatedAdapter]] = {
    "dr-encoder": DrEncoder,
    "fedcg": FedCg,
    "fedlpp": FedLpp,
    "history-prior": HistoryPrior,
    "lora": Lora,
    "public-prior": PublicPrior,
    "random-projection": RandomProjection,
}
