"""Everything that fabfile.py calls."""
