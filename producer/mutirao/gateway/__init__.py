"""The HTTP front: one process of it turns requests into jobs, waits for them, and tells of them."""
