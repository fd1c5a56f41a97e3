"""One client of secure aggregation among others that exist by their keys alone, and a server that may ask anything."""

from typing import Any

from flwr.app import Context, RecordDict

from client_app.app import app
from common.codecs import LinearCodec
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.secure.directory import Directory, to_bitmap
from common.secure.keys import NO_SITE, new_private_key, public_key
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import TRAIN, pack_instruction
from common.wire.secure import (
    KEYS,
    PEERS,
    REPAIR,
    SecureTask,
    pack_directory,
    pack_repair,
    pack_request,
    unpack_key,
    with_secure,
)
from tests.support.messages import NODE, instruction
from tests.support.tiny import TINY

MEMBERS = 5
TERMS = ReleaseTerms(32, 1.0, 2.0, "secure", MEMBERS, normalize=True)
ALL = set(range(MEMBERS))


def told(number: int, present: set[int] = ALL, rate: float = 1.0, least: int = 3) -> SecureTask:
    return SecureTask(number, rate, least, to_bitmap(present, MEMBERS))


class Client:
    """One client among others that exist by their keys alone; place 2 in the directory."""

    def __init__(self, adapted: AdaptedModel, node: dict[str, Any]) -> None:
        self.adapted = adapted
        run = {**TINY, "privacy.trust": "secure", "privacy.epsilon": 0.0, "privacy.noise-multiplier": 2.0}
        self.context = Context(
            run_id=7, node_id=NODE, node_config=node, state=RecordDict(), run_config=run, series_id=0
        )
        self.others = [(public_key(new_private_key()), NO_SITE) for _ in range(MEMBERS - 1)]

    def asked(self, content: RecordDict, kind: str) -> RecordDict:
        return app(instruction(content, kind, run=self.context.run_id), self.context).content

    def key(self) -> tuple[bytes, bytes]:
        return unpack_key(self.asked(pack_request(app_digest()), KEYS))

    def seated(self) -> "Client":
        own = self.key()
        self.know([*self.others[:2], own, *self.others[2:]])
        return self

    def know(self, members: list[tuple[bytes, bytes]]) -> RecordDict:
        return self.asked(pack_directory(Directory(tuple(members)), app_digest()), PEERS)

    def instructed(self, secure: SecureTask | None, terms: ReleaseTerms = TERMS, *, raw: bool = False) -> RecordDict:
        codec = LinearCodec.of_form(self.adapted.layout, 32, 1)
        content = pack_instruction(self.adapted.initial, codec.spec(), Task(1, terms, app_digest(), raw))
        return with_secure(content, secure) if secure else content

    def answers(self, secure: SecureTask | None, terms: ReleaseTerms = TERMS, *, raw: bool = False) -> RecordDict:
        return self.asked(self.instructed(secure, terms, raw=raw), TRAIN)

    def repairs(self, number: int, there: set[int]) -> RecordDict:
        return self.asked(pack_repair(number, to_bitmap(there, MEMBERS)), REPAIR)
