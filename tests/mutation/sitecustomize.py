"""Run by Python at its start where this folder is in ``PYTHONPATH``: see :mod:`mutant`."""

import os

import mutant

if os.environ.get(mutant.VARIABLE):
    mutant.install(os.environ[mutant.VARIABLE])
