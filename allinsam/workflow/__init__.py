"""What joins store and core. Page, command line and test call the same functions.

annotating   acts in, masks from boxes, molecular evidence, the next patch
learning     splits, frozen label sets, training runs, evaluation, prediction
rated        who marked what, and how far people agree
work_times   how long the work took
paces        how fast each person, group and arm works, and what became of the nuclei
label_costs  people's minutes behind a run's labels, beside its scores
scored       scores of models and of labels, and what may fairly be compared
exports      every table that leaves as CSV
assigning    patches into people's queues
progress     how far a study is, and how long training will take
checking     is the study what its acts and hashes say it is?
restoring    a study back from a backup
doctor       is everything as it should be where the study lies and runs?
demo         the simulated study every page can be tried on
"""
