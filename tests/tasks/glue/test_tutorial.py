"""The tutorial of docs/fine-tuning.md, in short form: a packaged task and its report."""

from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.tasks import run
from neobert.tools.glue_report import main

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)


def test_the_tutorial_ends_with_a_report(tmp_path: Path, encoder_folder: Path) -> None:
    score = run(
        compose_config(
            [
                "experiment=glue_tutorial",
                f"glue.pretrained_model_path={encoder_folder}",
                "glue.max_seq_length=16",
                "dataset.train_split='train[:640]'",
                "dataset.eval_samples=64",
                f"dataset.cache_dir={tmp_path / 'cache'}",
                f"trainer.output_dir={tmp_path / 'glue/0'}",
                "trainer.mixed_precision=no",
                "trainer.disable_tqdm=true",
                "trainer.use_cpu=true",
            ]
        )
    )
    assert score is not None
    assert 0 <= score <= 1
    assert main([str(tmp_path / "glue")]) == 0
    page = (tmp_path / "glue/glue.md").read_text()
    assert (
        f"| tiny | factbook_sections | {100 * score:.1f} | 1 | 640 | 0.003 | 32 | 1 | 1 |" in page
    )
    assert (tmp_path / "glue/glue.png").stat().st_size > 1000
