"""Fetching endorsements: what vendors say about their hardware, over the network, into files.

The one errand of a relying party that needs a network. Appraisal needs none and takes the files; what is in
them is believed for its signatures alone, and how old it may be is the appraisal policy's business.
"""

from myelin.endorsements.cache import Cache, Kept
from myelin.endorsements.endorsement import Endorsement
from myelin.endorsements.fetch import fetch_endorsements
from myelin.endorsements.services import Fetcher, Services
from myelin.endorsements.transport import Answer, Request, Transport

__all__ = [
    "Answer",
    "Cache",
    "Endorsement",
    "Fetcher",
    "Kept",
    "Request",
    "Services",
    "Transport",
    "fetch_endorsements",
]
