"""The scored report: as a table, as JSON, as JUnit."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import msgspec
from rich.console import Console
from rich.table import Table

from fluxeon.conformance.verdict import Level, Outcome, Result

_COUNTED = (Outcome.PASSED, Outcome.FAILED, Outcome.BLOCKED)
_MARKS = {
    Outcome.PASSED: "[green]pass[/]",
    Outcome.FAILED: "[red]FAIL[/]",
    Outcome.BLOCKED: "[yellow]blocked[/]",
    Outcome.SKIPPED: "[dim]skip[/]",
}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run.

    Attributes:
        conformant: Whether every MUST case passed.
        score: Percent of the counted cases that passed.
    """

    target: str
    subscriber_id: str
    role: str
    generation: str
    started_at: str
    took_s: float
    passed: int
    failed: int
    blocked: int
    skipped: int
    score: float
    conformant: bool
    cases: tuple[Result, ...]

    @classmethod
    def of(
        cls,
        results: Sequence[Result],
        *,
        target: str,
        subscriber_id: str,
        role: str,
        generation: str,
        started_at: str,
        took_s: float,
    ) -> "Report":
        """Count results."""
        count = {outcome: sum(each.outcome is outcome for each in results) for outcome in Outcome}
        counted = sum(count[outcome] for outcome in _COUNTED)
        return cls(
            target=target,
            subscriber_id=subscriber_id,
            role=role,
            generation=generation,
            started_at=started_at,
            took_s=round(took_s, 3),
            passed=count[Outcome.PASSED],
            failed=count[Outcome.FAILED],
            blocked=count[Outcome.BLOCKED],
            skipped=count[Outcome.SKIPPED],
            score=round(100 * count[Outcome.PASSED] / counted, 1) if counted else 0.0,
            conformant=counted > 0
            and all(each.outcome in (Outcome.PASSED, Outcome.SKIPPED) for each in results if _binds(each)),
            cases=tuple(results),
        )


def _binds(result: Result) -> bool:
    return result.level is Level.MUST


def verdict(report: Report) -> str:
    """Say how it went, in one line."""
    counted = report.passed + report.failed + report.blocked
    return (
        f"{report.subscriber_id} as {report.role}, generation {report.generation}: "
        f"{report.passed} of {counted} cases passed ({report.score:g} %), {report.failed} failed, "
        f"{report.blocked} blocked, {report.skipped} skipped; "
        + ("conformant" if report.conformant else "not conformant")
    )


def show(report: Report, console: Console) -> None:
    """Print the table, then what to mend."""
    table = Table(title=f"{report.target}", title_justify="left", box=None, pad_edge=False)
    for name in ("case", "level", "result"):
        table.add_column(name, no_wrap=True)
    table.add_column("what is tried", overflow="fold")
    table.add_column("ms", justify="right", no_wrap=True)
    for each in report.cases:
        table.add_row(each.id, each.level, _MARKS[each.outcome], each.title, f"{each.took_ms:.0f}")
    console.print(table)
    for each in report.cases:
        if each.outcome in (Outcome.FAILED, Outcome.BLOCKED):
            _explain(each, console)
    console.print()
    console.print(verdict(report), markup=False, highlight=False)


def _explain(result: Result, console: Console) -> None:
    lines = [
        f"\n{result.id} {result.title} ({result.level}, {result.outcome})",
        f"  rests on  {result.spec}",
        f"  expected  {result.expected}" if result.expected else None,
        f"  came      {result.came}" if result.came else None,
        f"  to mend   {result.mend}" if result.mend else None,
    ]
    console.print("\n".join(line for line in lines if line), markup=False, highlight=False)


def write_junit(report: Report, path: Path) -> None:
    """Write a JUnit file, one test case per case.

    Raises:
        OSError: The file cannot be written.
    """
    suite = Element(
        "testsuite",
        name=f"beckn-conformance-{report.role}-{report.generation}",
        timestamp=report.started_at,
        time=f"{report.took_s:.3f}",
        tests=str(len(report.cases)),
        failures=str(report.failed + report.blocked),
        errors="0",
        skipped=str(report.skipped),
    )
    for each in report.cases:
        case = SubElement(
            suite,
            "testcase",
            classname=f"{report.role}.{each.id.partition('-')[0]}",
            name=f"{each.id} {each.title}",
            time=f"{each.took_ms / 1000:.3f}",
        )
        if each.outcome is Outcome.SKIPPED:
            SubElement(case, "skipped", message=each.came or "does not apply")
        elif each.outcome is not Outcome.PASSED:
            told = f"expected {each.expected}; came {each.came}" if each.expected else str(each.came)
            failure = SubElement(case, "failure", type=each.outcome.value, message=_printable(told))
            failure.text = _printable(f"rests on: {each.spec}\nto mend: {each.mend}")
    indent(suite)
    ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _printable(text: str) -> str:
    """Leave out what XML 1.0 cannot hold."""
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)
