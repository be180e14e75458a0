"""Webhooks: POST a job's end to the URL that was submitted with it. Loads no model."""
