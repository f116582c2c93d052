"""Fixtures shared by every test."""

import os
from pathlib import Path

import pytest


def find_reference_dir() -> Path | None:
    """Locate the folder of official files and real load, or None where it is not at hand."""
    configured = os.environ.get("FLUXEON_REFERENCE_DIR")
    candidate = Path(configured) if configured else Path(__file__).resolve().parents[2] / "shared"
    return candidate if candidate.is_dir() else None


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The reference folder; the test is skipped where it is missing."""
    found = find_reference_dir()
    if found is None:
        pytest.skip("the reference folder is not at hand (FLUXEON_REFERENCE_DIR)")
    return found
