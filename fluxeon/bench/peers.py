"""Processes that benchmarks talk to: started, found by the line they print, ended by pid."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from fluxeon.errors import CommandFailed

END_WITHIN_S = 8.0


class Peer(NamedTuple):
    """A process that listens on a loopback port."""

    port: int
    pid: int


@contextmanager
def started(kinds: Sequence[str], facts: Mapping[str, str]) -> Iterator[dict[str, Peer]]:
    """Run one server per kind (:mod:`fluxeon.bench.serve`) for as long as the block lasts.

    Args:
        kinds: What to serve.
        facts: What they are told beside their own folder.

    Raises:
        CommandFailed: One did not start.
    """
    running: list[subprocess.Popen[bytes]] = []
    with TemporaryDirectory(prefix="fluxeon-bench-") as folder:
        try:
            for kind in kinds:
                own = Path(folder) / kind
                own.mkdir()
                running.append(_launch(kind, own, facts))
            yield {
                kind: _found(kind, process, Path(folder) / kind)
                for kind, process in zip(kinds, running, strict=True)
            }
        finally:
            for process in running:
                _end(process)


def _launch(kind: str, folder: Path, facts: Mapping[str, str]) -> subprocess.Popen[bytes]:
    told = json.dumps({**facts, "folder": str(folder)})
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "fluxeon.bench.serve", kind, told],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )


def _found(kind: str, process: subprocess.Popen[bytes], folder: Path) -> Peer:
    """Wait for the line with the port; a process that dies first says why in its log."""
    line = process.stdout.readline() if process.stdout is not None else b""
    try:
        return Peer(int(line), process.pid)
    except ValueError as error:
        process.wait(END_WITHIN_S)
        lines = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((text.strip() for text in reversed(lines) if text.strip()), "it wrote nothing")
        raise CommandFailed(f"the {kind} server did not start: {said}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
