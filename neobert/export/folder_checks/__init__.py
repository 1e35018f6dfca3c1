"""Checks of a folder of weights, in a process that has torch and transformers but not this package.

:mod:`neobert.export.check` imports this package there under its last name alone; so its modules
import each other relatively, and nothing else of ``neobert``.
"""
