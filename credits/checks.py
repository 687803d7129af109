"""The checks of requests, and the refusals that need no numbers; one line each, with the next step."""

from __future__ import annotations

from credits.errors import Code, InvalidRequest, Refused
from credits.source import Reservation
from credits.targets import Target

SIZE_LIMIT = 2**62
LEASE_LIMIT_NS = 10 * 365 * 24 * 3600 * 10**9
TTL_LIMIT_NS = 24 * 3600 * 10**9


def check_size(requested_bytes: int) -> None:
    """A size in bytes, above 0 (step 809)."""
    if type(requested_bytes) is not int or not 0 < requested_bytes <= SIZE_LIMIT:
        raise InvalidRequest(
            Code.INVALID_SIZE, f"a size is a whole number of bytes above 0, not {requested_bytes!r:.40}"
        )


def check_lease(lease_ns: int | None) -> None:
    """A lease of at most ten years, or none."""
    if lease_ns is not None and (type(lease_ns) is not int or not 0 < lease_ns <= LEASE_LIMIT_NS):
        raise InvalidRequest(
            Code.INVALID_SIZE, f"a lease is from 1 to {LEASE_LIMIT_NS} nanoseconds, not {lease_ns!r:.40}"
        )


def check_ttl(ttl_ns: int) -> None:
    """A hold of at most a day."""
    if type(ttl_ns) is not int or not 0 < ttl_ns <= TTL_LIMIT_NS:
        raise InvalidRequest(
            Code.INVALID_SIZE, f"a hold lasts from 1 to {TTL_LIMIT_NS} nanoseconds, not {ttl_ns!r:.40}"
        )


def check_epoch(reservation: Reservation, epoch: int | None) -> None:
    """The fencing number, if shown, is that of the present manager."""
    if epoch is not None and epoch != reservation.grant.epoch:
        raise Refused(
            Code.STALE,
            f"{reservation.target} is managed under epoch {reservation.grant.epoch} now, not {epoch}; "
            "another manager has taken it over",
        )


def not_reserved(target: Target) -> Refused:
    """The target has no reservation."""
    return Refused(Code.NOT_RESERVED, f"{target} has no reservation here")


def stale_hold(hold_id: int) -> Refused:
    """The hold is gone."""
    return Refused(
        Code.STALE, f"hold {hold_id!r:.40} is not open: it has expired, or was confirmed or voided"
    )


def connection_id_given(target: Target) -> InvalidRequest:
    """Reserving for a connection that already has an ID."""
    return InvalidRequest(
        Code.INVALID_TARGET,
        f"buffer IDs are issued by the pool: reserve for a connection without one; to change {target}, update it",
    )
