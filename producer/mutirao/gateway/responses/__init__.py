"""From a job's record or an error to an HTTP response."""
