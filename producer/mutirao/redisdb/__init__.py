"""Access to Redis: connections, the drivers that run operations, and the Lua scripts."""
