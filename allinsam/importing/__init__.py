"""From a folder of image pairs or a CSV manifest to a plan of patches, and a line for each thing wrong.

A ZIP is unpacked first and then is such a folder. No study is known here. Every image is decoded once, so
that what the plan holds can be imported.

A manifest has one row per channel of a PAS file, under these column names:

    pas            the stained image; paths are relative to the manifest and stay inside its folder
    channel_file   the file with the channel
    channel_index  which channel of that file, from 0; may be empty where the file has one
    role           marker, nuclear or other
    marker         WT1, GATA3, ...; needed where role is marker
    slide          the slide's name; empty: the text before the first _ of the patch's name
    glomerulus     any name; may be empty
    condition      normal, injured or unknown; empty: unknown
    um_per_px      pixel size; empty: from the PAS file, if it says

A patch is named as its PAS file: without suffix and _pas, with _ between folders.

Without a manifest, images of one patch share a name up to their last _: `s1g2_pas.png` with `s1g2_WT1.png`
and `s1g2_dapi.png`, or DeepLIIF's `x_hematoxylin.png`, `x_marker.png`, `x_dapi.png`, `x_lap2.png`.
"""

from allinsam.importing.archive import unpack_zip
from allinsam.importing.plan import ImportPlan, plan_import
from allinsam.importing.records import (
    Fallback,
    FolderRules,
    ImportLimits,
    PlannedChannel,
    PlannedPatch,
    Problem,
)

__all__ = [
    "Fallback",
    "FolderRules",
    "ImportLimits",
    "ImportPlan",
    "PlannedChannel",
    "PlannedPatch",
    "Problem",
    "plan_import",
    "unpack_zip",
]
