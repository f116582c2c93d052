"""JSON Schemas of the Beckn messages, written from the published facts."""
