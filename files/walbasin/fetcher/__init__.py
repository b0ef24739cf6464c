"""Carry out one call of restore_command."""
