"""The cases, one module per group; each module's ``CASES`` are played in order."""
