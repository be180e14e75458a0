"""A whole system on one machine, without Docker or root: `with Embedded(home=..., workers=2) as system: ...`."""

from mutirao.embedded.supervisor import ChildExit
from mutirao.embedded.system import Embedded

__all__ = ["ChildExit", "Embedded"]
