"""The engine's transport: requests are reserved in bulk under a lease, where kombu's own pops them one by one and notes it later."""

from mutirao_worker.transport.channel import SentinelTransport, Transport

__all__ = ["SentinelTransport", "Transport"]
