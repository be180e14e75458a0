"""A gateway over HTTP: the second way to the system."""

from mutirao.http.driver import AsyncHttp, Http
from mutirao.http.remote import Remote
from mutirao.http.rounds import Rounds
from mutirao.ways import Way

__all__ = ["HTTP"]

HTTP = Way(Remote, Http, AsyncHttp, Rounds)
