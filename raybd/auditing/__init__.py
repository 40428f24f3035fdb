"""Audits: which images of a data set that is suspected look planted, where no truth is known.

    from raybd import audit
    found = audit("folder:PATH")   # or images with names: NamedImages
    found.verdict                  # nothing found, or how many images look planted, in which class
    found.to_frame()               # all images, the most suspicious first, with reasons

One network is trained on the images and one encoder without their labels (`features.py`); all detectors look at these
(`detectors.py`), speak in one unit, by their nulls (`null.py`), and make one order and one verdict (`ranking.py`).
"""

from raybd.auditing.run import audit
from raybd.auditing.settings import AuditSettings
from raybd.auditing.suspects import Audit, AuditVerdict, Planted

__all__ = ["Audit", "AuditSettings", "AuditVerdict", "Planted", "audit"]
