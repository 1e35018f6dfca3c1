"""What the tests of exported models share: no trace of theirs in the user's cache of modules."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache_of_remote_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import transformers.dynamic_module_utils

    folder: Path = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(folder))
        yield
