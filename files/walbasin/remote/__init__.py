"""Fetch from a Barman host over ssh."""
