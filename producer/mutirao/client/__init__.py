"""Clients: submit requests and wait for results, through Redis or a gateway, blocking or asyncio."""

from mutirao.client.client import Client, Job

__all__ = ["Client", "Job"]
