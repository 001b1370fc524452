"""The annotate page in parts.

bench      where one person is on one patch, and what gestures do there; no widgets
bar        above the panes: classes, undo, zoom, view
panel      beside the panes: the nuclei, the selected one, handing in
guidance   what to do when nothing has been done, or nothing is left to do
"""
