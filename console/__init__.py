"""What fabfile.py stands on: the hosts of the inventory, what they say, and how it is shown."""
