"""How Redis is spoken to: connections, drivers that run operations, and the scripts."""
