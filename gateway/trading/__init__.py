"""Trading: decisions carried out in one transaction each, messages sent after it."""
