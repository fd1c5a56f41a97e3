"""Secure aggregation, client side: keys at the start of a run, a masked answer a round, help to do without the missing.

What is answered here depends on no row: a client's code gets into a masked answer in ``client_app.answer`` alone.
"""

from flwr.app import Context, Message

from client_app.exchange_file import claim
from client_app.guard import guarded
from client_app.seat import Seat, fresh_seat, take_again
from client_app.site import CodeMismatch, Site
from client_app.site_keys import SiteKeys
from common.secure.keys import KeyFault, new_private_key
from common.secure.masks import masked
from common.wire.digest import app_digest
from common.wire.records import WireError
from common.wire.secure import (
    NEEDS_KEYS,
    bits_of,
    pack_key,
    pack_known,
    pack_masked,
    unpack_directory,
    unpack_repair,
    unpack_request,
)


@guarded
def keys(message: Message, context: Context) -> Message:
    """A fresh run key, and the name of the site's pinned one."""
    _check_code(unpack_request(message.content))
    Site.of(context)  # a node configuration that is wrong is told now
    site = SiteKeys.from_node_config(context.node_config)
    seat = fresh_seat(new_private_key(), Seat.of(context.state))
    seat.keep(context.state)
    return Message(pack_key(seat.public, site.name), reply_to=message)


@guarded
def peers(message: Message, context: Context) -> Message:
    """Everybody's keys: a secret for each pair that this client is part of."""
    directory, digest = unpack_directory(message.content)
    _check_code(digest)
    pinned, seat = SiteKeys.from_node_config(context.node_config), Seat.of(context.state)
    if seat is None or not seat.private:
        raise WireError(f"this client {NEEDS_KEYS} directory: it was not asked for a key before")
    try:
        place = directory.place_of(seat.public)
        pinned.check(directory, place)
        others = (other for other in range(len(directory.members)) if other != place)
        secrets = [pinned.secret(seat.private, directory, (place, other), context.run_id) for other in others]
    except KeyFault as fault:
        raise WireError(f"directory: {fault}") from None
    seat.seated(place, secrets).keep(context.state)
    return Message(pack_known(directory.digest), reply_to=message)


@guarded
def repair(message: Message, context: Context) -> Message:
    """The answer of an exchange once more, among those who gave one: the same code under noise and masks of its own.

    Of the first answers nothing can be read then, as masks with the missing stay on. Even where one comes after all,
    each sum is a release like any other, and a client is in two of them at most.
    """
    exchange, survivors = unpack_repair(message.content)
    site, seat = Site.of(context), Seat.of(context.state)
    if seat is None:
        raise WireError(f"this client {NEEDS_KEYS} repair")
    after, asked, masks = seat.repair(exchange, survivors)
    values = take_again(context.state, exchange)
    remember(site, after, exchange, 1)
    after.keep(context.state, in_memory=not site.policy.ledger_path)
    bits = bits_of(asked.terms)
    return Message(pack_masked(masked(values, masks, bits), exchange, bits), reply_to=message)


def remember(site: Site, seat: Seat, exchange: int, leg: int) -> None:
    """Write down, where the site keeps a ledger, that this leg is answered; ``WireError`` where it was before.

    A message that a worker has died over may be answered all the same: nothing had left.
    """
    if site.policy.ledger_path:
        claim(site.policy.ledger_path, seat.public, exchange, leg)


def lands_heads(site: Site, round_index: int, rate: float) -> bool:
    """The client's own coin: whether its code is in this round's sum."""
    word = int(site.noise_source(round_index).uint64(1)[0])
    return word < int(rate * 2**64)


def _check_code(digest: str) -> None:
    if digest != app_digest():
        raise CodeMismatch(f"the server runs app code {digest}, this client runs {app_digest()}: deploy one version")
