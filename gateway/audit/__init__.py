"""The tamper-evident journal, its verifier and the stories told from it."""
