"""What a conformance case is."""

from collections.abc import Awaitable, Callable

import msgspec

from fluxeon.conformance.session import Session
from fluxeon.conformance.verdict import Level

BOTH_GENERATIONS = frozenset({"1.1", "2.0"})
BOTH_ROLES = frozenset({"bap", "bpp"})


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing an implementation has to do.

    Attributes:
        id: Stable, such as ``SIG-003``.
        title: What is tried, in one line.
        spec: The text it rests on.
        mend: What an implementer who fails it has to change.
        play: Tries it; raises one of the exceptions of :mod:`fluxeon.conformance.verdict`.
        level: How binding it is.
        roles: Roles of the target it is for.
        generations: Protocol generations it is for.
    """

    id: str
    title: str
    spec: str
    mend: str
    play: Callable[[Session], Awaitable[None]]
    level: Level = Level.MUST
    roles: frozenset[str] = BOTH_ROLES
    generations: frozenset[str] = BOTH_GENERATIONS
