"""What neither the paper nor its peers have: importing it adds two methods and a data set.

``mask_aware`` is Algorithm 1 whose D sees masks; ``scored`` adds a proper score on hidden pixels;
``incomplete`` is a folder of images that are really incomplete. The rest asks whether samples can be
trusted (``posterior``, ``fields``), chooses settings without complete images (``selection``), and
shows (``explorer``).
"""

from paperlib.beyond.incomplete import IncompleteFolder
from paperlib.beyond.mask_aware import MaskAware
from paperlib.beyond.scored import Scored
from paperlib.core.baselines import METHODS
from paperlib.data.sources import SOURCES

METHODS |= {"mask_aware": MaskAware, "scored": Scored}
SOURCES["incomplete"] = IncompleteFolder
