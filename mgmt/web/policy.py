"""The policy of one target: whether its size follows the channel, and the rules of resizing it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from credits.quantities import parse_delay
from credits.targets import Target, TargetKind
from mgmt.http import ProblemError
from mgmt.station import policies, updates
from mgmt.station.holders import with_pair
from mgmt.station.policies import BOUNDS
from mgmt.station.records import Policy, Sizing
from mgmt.web.commands import Command, post, target_body, target_words
from mgmt.web.face import REFUSALS, Face, Submitted, as_problem, asker
from mgmt.web.forms import Form, Pair, target_fields
from mgmt.web.rendering import redirect
from mgmt.web.reservation import named

_SECOND_NS = 10**9
#: Field of the form → field of the policy: whole numbers, and times of whole seconds.
NUMBERS: Mapping[str, str] = {
    "min_change": "min_change_percent",
    "shrink_samples": "shrink_samples",
    "priority": "priority",
}
TIMES: Mapping[str, str] = {
    "min_interval": "min_interval_s",
    "shrink_after": "shrink_after_s",
    "lease": "lease_s",
}


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/policy")
    def show(request: Request) -> Response:
        """The policy of the target that the URL names, or the usual one to begin with."""
        form = face.query(request)
        target, via = named(form)
        form.values = _texts(policies.find(face.station, target)) | dict(form.values)
        return _page(face, request, form, target, via)

    @router.post("/policy")
    def save(request: Request, submitted: Submitted) -> Response:
        """Put it, or take it away."""
        form = face.form(request, submitted)
        target, via = named(form)
        try:
            if form.text("do") == "remove":
                policies.remove(face.station, target, by=asker(request))
                return redirect("/policy", **target_fields(target, via), done="removed")
            wanted = _read(form, target, via)
            if wanted is None:
                return _page(face, request, form, target, via, status=422)
            updates.put_policy(face.station, wanted, by=asker(request))
        except REFUSALS as error:
            found = as_problem(error)
            return _page(face, request, form, target, via, status=int(found["status"]), problem=found)
        return redirect("/policy", **target_fields(target, via), done="saved")


def _page(
    face: Face,
    request: Request,
    form: Form,
    target: Target,
    via: Pair | None,
    *,
    status: int = 200,
    problem: Mapping[str, Any] | None = None,
) -> Response:
    if target.kind is TargetKind.CONNECTION and target.buffer_id is None:
        detail = "a policy is for a connection that has a buffer ID"
        raise ProblemError("INVALID_TARGET", detail, status=422, title="No target")
    pair = via
    if pair is None:
        with suppress(*REFUSALS):
            whole = with_pair(face.station, target)
            pair = (str(whole.local_port), str(whole.remote_port)) if whole.local_port else None
    return face.page(
        request,
        "policy.html",
        status=status,
        commands=_commands(request, form, target, via),
        form=form,
        target=target,
        pair=pair,
        policy=policies.find(face.station, target),
        fields=target_fields(target, via),
        done=form.text("done") if status == 200 else "",
        problem=problem,
    )


def _texts(policy: Policy | None) -> dict[str, str]:
    """What stands in the fields at first."""
    found = policy or Policy(target=Target(TargetKind.APPLICATION, name="-"))
    texts = {"sizing": found.sizing.value, "partial": "1" if found.allow_partial else ""}
    for name in ("size_bytes", "min_bytes", "max_bytes"):
        value = getattr(found, name)
        texts[name] = _size_text(value) if value else ""
    texts |= {name: str(getattr(found, of)) for name, of in NUMBERS.items()}
    for name, of in TIMES.items():
        value = getattr(found, of)
        texts[name] = "" if value is None else f"{value}s"
    return texts


def _size_text(value: int) -> str:
    """A size as it may be typed, exact: ``2MiB``, ``350001``."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def _read(form: Form, target: Target, via: Pair | None) -> Policy | None:
    """The policy in the form; ``None`` with the errors beside the fields."""
    automatic = form.text("sizing") != Sizing.MANUAL.value
    values: dict[str, Any] = {
        "sizing": Sizing.AUTOMATIC if automatic else Sizing.MANUAL,
        "size_bytes": None if automatic else form.size("size_bytes"),
        "min_bytes": form.any_size("min_bytes") or 0,
        "max_bytes": form.any_size("max_bytes"),
        "allow_partial": bool(form.text("partial")),
    }
    for name, of in NUMBERS.items():
        values[of] = form.whole(name, *BOUNDS[of])
    for name, of in TIMES.items():
        values[of] = _seconds(form, name, of)
    if values["max_bytes"] is not None and values["max_bytes"] < values["min_bytes"]:
        form.wrong("max_bytes", form.language("The largest size is not below the smallest."))
    if form.errors:
        return None
    own = target.local_port is not None
    return replace(Policy(target=target, via=None if own else via), **values)


def _seconds(form: Form, name: str, of: str) -> int | None:
    """A time of whole seconds within the bounds of the policy's field; nothing typed is none, for a lease alone."""
    low, high = BOUNDS[of]
    text = form.text(name)
    if not text and of == "lease_s":
        return None
    try:
        found, rest = divmod(parse_delay(text), _SECOND_NS) if text != "0" else (0, 0)
    except ValueError:
        found, rest = -1, 0
    if rest or not low <= found <= high:
        message = form.language(
            "Enter whole seconds from %(low)s to %(high)s, such as 60s.", low=low, high=high
        )
        form.wrong(name, message)
        return None
    return found


def _commands(request: Request, form: Form, target: Target, via: Pair | None) -> tuple[Command, ...]:
    base = str(request.base_url).rstrip("/")
    names = target_words(target)
    remove = post(base, ["policy", "remove", *names], "policies/remove", target_body(target))
    wanted = _read(Form(form.values, form.language), target, via)
    if wanted is None:
        return (remove,)
    words = ["policy", "set", *names]
    words += ["--automatic"] if wanted.size_bytes is None else ["--size", str(wanted.size_bytes)]
    words += ["--floor", str(wanted.min_bytes)] if wanted.min_bytes else []
    words += ["--ceiling", str(wanted.max_bytes)] if wanted.max_bytes is not None else []
    words += ["--min-change", str(wanted.min_change_percent), "--shrink-samples", str(wanted.shrink_samples)]
    words += ["--min-interval", f"{wanted.min_interval_s}s", "--shrink-after", f"{wanted.shrink_after_s}s"]
    words += ["--lease", f"{wanted.lease_s}s"] if wanted.lease_s is not None else []
    words += ["--partial" if wanted.allow_partial else "--no-partial", "--priority", str(wanted.priority)]
    unwanted = ("target", "via", "changed_at", "changed_by")
    plain = {name: value for name, value in policies.row(wanted).items() if name not in unwanted}
    return post(base, words, "policies", target_body(target, via, **plain)), remove
