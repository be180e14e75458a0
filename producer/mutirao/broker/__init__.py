"""How requests reach a queue and records are read."""
