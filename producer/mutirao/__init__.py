"""Asynchronous model inference."""
