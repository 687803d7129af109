"""Recommended sizes as every face shows them; the policies themselves are :mod:`credits.sizing`."""

from __future__ import annotations

from typing import Any

from credits.sizing import POLICIES, Inputs, Recommendation, applicable, recommend_from

#: The policy used unless another is named: the document's formula (paragraph 45, step 903).
DOCUMENT = "document"
#: Every policy whose inputs are known, side by side.
ALL = "all"
#: Unit size assumed where no array says another.
DEFAULT_UNIT_BYTES = 16 * 1024


def recommendations(policy: str, inputs: Inputs) -> list[Recommendation]:
    """The sizes by ``policy``, or by every policy that has its inputs (``all``).

    Raises :class:`ValueError`: unknown policy, an input it needs is missing, a number out of range.
    """
    if policy != ALL:
        return [recommend_from(policy, inputs)]
    names = applicable(inputs)
    if not names:
        needs = sorted({" + ".join(rule.needs) for rule in POLICIES.values()})
        raise ValueError(f"no sizing policy has what it needs; they need {', or '.join(needs)}")
    return [recommend_from(name, inputs) for name in names]


def row(recommendation: Recommendation) -> dict[str, Any]:
    """The JSON object of one recommendation: ``{policy, bytes, units, unit_bytes, terms, explanations}``."""
    return {
        "policy": recommendation.policy,
        "bytes": recommendation.bytes,
        "units": recommendation.units,
        "unit_bytes": recommendation.unit_bytes,
        "terms": {term.name: term.value for term in recommendation.terms},
        "explanations": {term.name: term.explanation for term in recommendation.terms},
    }
