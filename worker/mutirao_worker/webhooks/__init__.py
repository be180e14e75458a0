"""Webhooks: whoever asked for it is told that a job has ended. Loads no model."""
