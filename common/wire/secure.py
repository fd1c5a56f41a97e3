"""What secure aggregation sends: public keys once a run, terms of a masked answer, masked vectors.

A set-up has two legs: everybody's public key up (37 B), everybody's directory down (37 B a member). After it a round's
instruction has one more field, and its answers are vectors modulo 2^m. A repair is a second leg, only where somebody
is missing.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from flwr.app import ConfigRecord, RecordDict

from common.privacy.mechanism import ReleaseTerms
from common.secure import packing
from common.secure.directory import Directory
from common.secure.keys import KEY_BYTES, SITE_BYTES, KeyFault
from common.secure.masks import Words, modulus_bits
from common.wire.assignment import Task
from common.wire.records import MASK, NOTHING, TASK, WireError

KEYS, PEERS, REPAIR = "query.keys", "query.peers", "query.repair"
SECURE = "secure"
NEEDS_KEYS = "has no pair secrets for this"
"""In the refusal of a client that lacks the keys which the server takes it to have, so that it makes new ones."""
_MOST_EXCHANGES = 2**62
_MASK = struct.Struct("<qdI")  # exchange, rate, least; then the bitmap of who is present
_ANSWER = struct.Struct("<qi")  # exchange, last round whose sum the client keeps


@dataclass(frozen=True)
class SecureTask:
    """Under what a masked answer is asked for.

    Attributes:
        exchange: number of this exchange, larger than that of any before in a run.
        rate: probability of the client's own coin: heads, its code is in; tails, zeros are.
        least: fewest members of whose messages a sum may be made; what the noise is cut for.
        present: the members that are asked, a bit each (``directory.to_bitmap``).

    """

    exchange: int
    rate: float
    least: int
    present: bytes

    def __post_init__(self) -> None:
        if not (0 <= self.exchange < _MOST_EXCHANGES and 0 < self.rate <= 1 and self.least >= 1):
            raise ValueError(
                f"exchange = {self.exchange}, rate = {self.rate}, least = {self.least}: expected numbers from 0, a "
                "rate above 0 and up to 1, at least one member"
            )


def bits_of(terms: ReleaseTerms) -> int:
    """Bits of a value modulo 2^m: the sum of all clients' codes fits, with 12 σ of its noise."""
    std = terms.total_std(terms.shares) / terms.grid_step
    return modulus_bits(terms.shares * terms.resolution, std)


def with_secure(instruction: RecordDict, task: SecureTask) -> RecordDict:
    """An instruction whose answers are to be masked."""
    data = _MASK.pack(task.exchange, task.rate, task.least) + task.present
    return RecordDict({TASK: ConfigRecord({**_record(instruction, TASK), MASK: data})})


def secure_task(content: RecordDict, terms: ReleaseTerms, *, raw: bool) -> SecureTask | None:
    """Under what an instruction asks for a masked answer; ``None`` where it asks for none.

    ``WireError`` where its trust model says otherwise, or for what is malformed.
    """
    data = _record(content, TASK).get(MASK)
    if (terms.trust == "secure") != (data is not None):
        raise WireError(f"trust is {terms.trust!r}, and the instruction has {'no' if data is None else 'a'} mask")
    if data is None:
        return None
    if raw or not terms.noise_multiplier:
        raise WireError("a masked answer is of noisy integers; this one is asked for in the clear")
    if not isinstance(data, bytes) or len(data) < _MASK.size:
        raise WireError(f'field "{MASK}" is {data!r:.40}, expected {_MASK.size} bytes and who is present')
    try:
        bits_of(terms)
        exchange, rate, least = _MASK.unpack_from(data)
        return SecureTask(exchange, rate, least, data[_MASK.size :])
    except (ValueError, OverflowError) as error:
        raise WireError(f"masked answer: {error}") from None


def context_of(task: Task, secure: SecureTask) -> bytes:
    """A digest of all that members must have been told alike, or their masks do not come off each other."""
    told = {"round": task.round, "terms": asdict(task.terms), **asdict(secure), "present": secure.present.hex()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()


def repair_context(context: bytes, present: bytes) -> bytes:
    """The same for the second leg: members that were told of different survivors do not add up, either."""
    return hashlib.sha256(b"repair" + context + present).digest()


def pack_key(key: bytes, site: bytes) -> RecordDict:
    """A member's entry: its public run key, and the name of the key by which others know its site."""
    return RecordDict({SECURE: ConfigRecord({"key": key, "site": site})})


def unpack_key(content: RecordDict) -> tuple[bytes, bytes]:
    """The inverse of ``pack_key``."""
    found = _fields(content, {"key": bytes, "site": bytes})
    if (len(found["key"]), len(found["site"])) != (KEY_BYTES, SITE_BYTES):
        raise WireError(f"a key of {len(found['key'])} bytes and a site's name of {len(found['site'])}")
    return found["key"], found["site"]


def pack_directory(directory: Directory, code_digest: str) -> RecordDict:
    """Everybody's entries, as each member gets them."""
    return RecordDict({SECURE: ConfigRecord({"code-digest": code_digest, "directory": directory.to_bytes()})})


def unpack_directory(content: RecordDict) -> tuple[Directory, str]:
    """The inverse of ``pack_directory``."""
    found = _fields(content, {"code-digest": str, "directory": bytes})
    try:
        return Directory.from_bytes(found["directory"]), found["code-digest"]
    except KeyFault as fault:
        raise WireError(str(fault)) from None


def pack_request(code_digest: str) -> RecordDict:
    """The first leg of a set-up."""
    return RecordDict({SECURE: ConfigRecord({"code-digest": code_digest})})


def unpack_request(content: RecordDict) -> str:
    """The digest of the app's code that asks for keys."""
    return str(_fields(content, {"code-digest": str})["code-digest"])


def pack_known(digest: bytes) -> RecordDict:
    """What a member answers to a directory: its digest."""
    return RecordDict({SECURE: ConfigRecord({"known": digest})})


def unpack_known(content: RecordDict) -> bytes:
    """The inverse of ``pack_known``."""
    return bytes(_fields(content, {"known": bytes})["known"])


def pack_repair(exchange: int, present: bytes) -> RecordDict:
    """The second leg: of which members the messages have come."""
    return RecordDict({SECURE: ConfigRecord({"exchange": exchange, "present": present})})


def unpack_repair(content: RecordDict) -> tuple[int, bytes]:
    """The inverse of ``pack_repair``."""
    found = _fields(content, {"exchange": int, "present": bytes})
    return found["exchange"], found["present"]


def pack_masked(values: Words, exchange: int, bits: int, keeps: int = NOTHING) -> RecordDict:
    """A masked vector, ``bits`` bits a value; ``keeps``: what its sender holds, as in ``pack_release``."""
    head = _ANSWER.pack(exchange, keeps)
    return RecordDict({SECURE: ConfigRecord({"head": head, "values": packing.pack(values, bits)})})


def unpack_masked(content: RecordDict, exchange: int, size: int, bits: int) -> tuple[Words, int]:
    """The inverse of ``pack_masked``: the vector, and what its sender keeps.

    Of another exchange or length: ``WireError``.
    """
    found = _fields(content, {"head": bytes, "values": bytes})
    if len(found["head"]) != _ANSWER.size:
        raise WireError(f"masked answer: its head is {len(found['head'])} bytes, expected {_ANSWER.size}")
    number, keeps = _ANSWER.unpack(found["head"])
    if number != exchange:
        raise WireError(f"answer belongs to exchange {number}, expected {exchange}")
    try:
        return packing.unpack(found["values"], size, bits), keeps
    except ValueError as error:
        raise WireError(f"masked vector: {error}") from None


def _record(content: RecordDict, name: str, *, alone: bool = False) -> dict[str, Any]:
    record = content.get(name)
    if not isinstance(record, ConfigRecord) or (alone and len(content) != 1):
        raise WireError(f'expected a record "{name}"{" and no other" if alone else ""}; it has {sorted(content)}')
    return {key: cast("Any", value) for key, value in record.items()}


def _fields(content: RecordDict, expected: Mapping[str, type]) -> dict[str, Any]:
    found = _record(content, SECURE, alone=True)
    if {key: type(value) for key, value in found.items()} != dict(expected):
        raise WireError(f"record {SECURE} holds {sorted(found)}, expected {', '.join(expected)} of their types")
    return found
