"""The BAP gateway: telemetry in, relief bought over Beckn, evidence out."""
