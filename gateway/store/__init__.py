"""Durable state: tables and the single writer."""
