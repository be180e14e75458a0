"""The HTTP gateway: turns requests into jobs, waits for their results, and streams their steps."""
