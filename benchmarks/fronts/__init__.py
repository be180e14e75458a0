"""The HTTP servers that `make bench-http` sets side by side, by name, in the order of the tables."""

from __future__ import annotations

from fronts.front import Front
from fronts.gateway import Gateway
from fronts.mlserver import MLServer, Parallel

OURS = Gateway.name
# Whichever of these did better in a round is what ours is held against.
THEIRS = (MLServer.name, Parallel.name)
TABLE: dict[str, type[Front]] = {front.name: front for front in (Gateway, MLServer, Parallel)}
