"""Seed data: feeders, DERs, participants and a sample of measured-shape load."""
