"""One module per command, or group of commands; :mod:`fluxeon.cli` assembles them."""
