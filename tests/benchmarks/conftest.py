"""The model folder that the tests of the tools use."""

from tests.tools.conftest import model_folder

__all__ = ["model_folder"]
