"""Images: where they come from, how they are prepared once, and what a method may see of them."""

from paperlib.data import archives as archives  # both add their sources to SOURCES
from paperlib.data import digits as digits
