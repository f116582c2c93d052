"""The browsable API description under ``/schema``, with files of its own: a control room has no internet."""

from importlib.util import find_spec
from pathlib import Path

from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.router import Router
from litestar.static_files import create_static_files_router

from gateway.routes.guards import OPEN

ASSETS = "/assets/schema"


def schema_assets() -> Router:
    """Serve Swagger UI's scripts and styles as the ``swagger-ui-py`` package ships them."""
    return create_static_files_router(
        path=ASSETS, directories=[_bundled()], opt=OPEN, include_in_schema=False, name="schema-assets"
    )


def schema_page() -> SwaggerRenderPlugin:
    """Swagger UI from those files."""
    return SwaggerRenderPlugin(
        js_url=f"{ASSETS}/swagger-ui-bundle.js",
        css_url=f"{ASSETS}/swagger-ui.css",
        standalone_preset_js_url=f"{ASSETS}/swagger-ui-standalone-preset.js",
    )


def _bundled() -> Path:
    """Folder of the package's static files.

    Raises:
        RuntimeError: The package is not installed.
    """
    found = find_spec("swagger_ui")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("swagger-ui-py is not installed")
    return Path(found.submodule_search_locations[0]) / "static"
