"""A router whose pool is called, priced and filtered as the user's own table says."""

from __future__ import annotations

import copy
import dataclasses
import warnings

from unirouter_core.exceptions import UnknownPriceError
from unirouter_core.pool import Pool
from unirouter_core.profiles import ModelProfile
from unirouter_core.profiling import repriced
from unirouter_core.router import UniRouter
from unirouter_plugins.providers.members import MEASURED_AS, SERVED_AS, Member, Members, differences, restored
from unirouter_plugins.providers.pricing import capabilities


def configured(router: UniRouter, members: Members) -> UniRouter:
    """Return the router with its pool as `members` has it; `router` stays as it is.

    The table's prices and capabilities count in decisions, its settings in calls. A model that it calls otherwise than
    it was measured is warned of.
    """
    pool = router.pool
    served = {name: _configured(profile, members) for name, profile in pool.items()}
    deciding = copy.copy(router)
    deciding.replace_pool(Pool(served))
    return deciding


def _configured(profile: ModelProfile, members: Members) -> ModelProfile:
    member = members.get(profile.model)
    if member is None:
        return profile
    if changed := differences(member, profile):
        warnings.warn(
            f"{profile.model!r} is not served as it was measured: {'; '.join(changed)}. Its error and cost may be "
            "others; measure it anew with --replace.",
            stacklevel=4,
        )
    measured_as = profile.provenance.get(MEASURED_AS, profile.provenance.get(SERVED_AS))
    provenance = {**profile.provenance, SERVED_AS: member.served_as}
    if measured_as is not None:
        provenance[MEASURED_AS] = measured_as
    able = capabilities(member, profile)
    return _priced(dataclasses.replace(profile, provenance=provenance, capabilities=able), member)


def _priced(profile: ModelProfile, member: Member) -> ModelProfile:
    if member.prices is None or member.prices == profile.prices:
        return profile
    try:
        return repriced(profile, member.prices)
    except UnknownPriceError:
        warnings.warn(
            f"{profile.model!r} was measured without token prices, so decisions go by its old cost; measure it anew "
            "with --replace.",
            stacklevel=5,
        )
        return dataclasses.replace(profile, prices=member.prices)


def member_of(profile: ModelProfile) -> Member:
    """Return how a model of the pool is called: as its profile says, else by its own name."""
    kept = profile.provenance.get(SERVED_AS)
    return Member(profile.model, profile.model) if kept is None else restored(profile.model, kept)
