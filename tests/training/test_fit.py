import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from neobert.training.callbacks.interrupt import Interrupted
from neobert.training.fit import fit


class StopsAfterThreeSteps(Callback):
    def __init__(self, saved: bool) -> None:
        self.saved = saved

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == 3:
            raise Interrupted(3, self.saved)


@pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers")
@pytest.mark.parametrize("saved", [True, False])
def test_a_stopped_run_says_how_to_resume_if_it_was_saved(
    saved: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[StopsAfterThreeSteps(saved)],
        max_steps=5,
        log_every_n_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(Interrupted):
        fit(trainer, BoringModel(), BoringDataModule(), None)
    assert "stopped after step 3" in caplog.text
    assert ("trainer.resume_from_checkpoint=latest" in caplog.text) == saved
    assert ("trainer.save_strategy=no" in caplog.text) != saved
