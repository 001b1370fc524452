"""SAM behind a table of backbones: weights, frames, embeddings, boxes to masks.

Importing this package makes `segment_anything` importable beside any build of torch (see torchvision_shim).
"""

from allinsam.sam.torchvision_shim import import_when_needed

import_when_needed()
