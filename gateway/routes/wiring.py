"""What the application hands to every handler."""

from litestar.di import NamedDependency

from gateway.runtime import Runtime

Running = NamedDependency[Runtime]
"""The started gateway; the argument is named ``runtime``."""
