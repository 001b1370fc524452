"""Errors a user can act on. Pages show the message; the command line prints it on one line and exits 2.

AllinsamError
├── InputError       a value, file or setting from outside is not usable
├── NotFoundError    a named thing does not exist in this study
├── NotAllowedError  this person may not do this
│   └── ConsentMissing   they have not agreed to the consent text of now
├── ModelError       weights, checkpoint or device cannot be used
└── StorageError     the study's own files cannot be read or written now
"""

import re

# What leads to a file: /home/ana/ or C:\ana\.
FOLDERS = re.compile(r"(?<![\w.:/\\])(?:(?:/[^/\s]+)+/(?=[^/\s])|[A-Za-z]:\\(?:[^\\\s]+\\)*)")
SAID_TWICE = re.compile(r"^(.+): \1(?=[ :])", re.MULTILINE)


def by_name(text: str) -> str:
    """The same, with each file called by its name alone: for people who are not at the machine it lies on."""
    return SAID_TWICE.sub(r"\1", FOLDERS.sub("", text))


class AllinsamError(Exception):
    """Base of every error whose message names the value and the remedy."""


class InputError(AllinsamError):
    """A value, file or setting from outside is not usable."""


class NotFoundError(AllinsamError):
    """A named thing does not exist in this study."""


class NotAllowedError(AllinsamError):
    """This person may not do this."""


class ConsentMissing(NotAllowedError):
    """The person has not agreed to the study's consent text of now."""


class ModelError(AllinsamError):
    """Weights, checkpoint or device cannot be used."""


class StorageError(AllinsamError):
    """The study's own files cannot be read or written now: disk full, read-only, damaged, gone.

    Whoever asked did nothing wrong and may ask again later: what was to be kept is to be sent once more.
    """
