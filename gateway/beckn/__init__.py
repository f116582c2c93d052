"""The Beckn wire: messages, signatures, registries. Usable by buyer and seller alike."""
