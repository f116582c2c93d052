"""Makes the two common kinds of case from data."""

from collections.abc import Callable

from fluxeon.conformance import expect
from fluxeon.conformance.case import BOTH_GENERATIONS, BOTH_ROLES, Case
from fluxeon.conformance.draft import Draft, Shot
from fluxeon.conformance.session import Session
from fluxeon.conformance.verdict import Level

Make = Callable[[Session, Draft], Shot]

UNPROVEN = {401}
AUT = ("AUT_",)


def refused(
    case_id: str,
    title: str,
    make: Make,
    *,
    spec: str,
    mend: str,
    statuses: set[int],
    codes: tuple[str, ...] = (),
    level: Level = Level.MUST,
    roles: frozenset[str] = BOTH_ROLES,
    generations: frozenset[str] = BOTH_GENERATIONS,
) -> Case:
    """Make a case in which one message is spoilt and has to be refused."""

    async def play(session: Session) -> None:
        draft = session.probe()
        # A buyer's request may be answered later on: its id is used again. A seller's is never.
        message_id = draft.message_id if session.role == "bpp" else None
        await session.refuse(make(session, draft), statuses, codes=codes, message_id=message_id)

    return Case(
        id=case_id,
        title=title,
        spec=spec,
        mend=mend,
        play=play,
        level=level,
        roles=roles,
        generations=generations,
    )


def taken(
    case_id: str,
    title: str,
    make: Make,
    *,
    spec: str,
    mend: str,
    level: Level = Level.MUST,
    roles: frozenset[str] = BOTH_ROLES,
    generations: frozenset[str] = BOTH_GENERATIONS,
) -> Case:
    """Make a case in which an unusual but right message has to be acknowledged."""

    async def play(session: Session) -> None:
        expect.ack(await session.send(make(session, session.good_probe())))

    return Case(
        id=case_id,
        title=title,
        spec=spec,
        mend=mend,
        play=play,
        level=level,
        roles=roles,
        generations=generations,
    )
