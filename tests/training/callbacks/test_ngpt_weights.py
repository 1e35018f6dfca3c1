import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.testing import assert_close
from torch.utils.data import DataLoader

from neobert.batch import PackedBatch
from neobert.config.model import ModelConfig
from neobert.config.optimizer import OptimizerConfig
from neobert.config.root import Config
from neobert.losses.mlm import masked_lm_loss
from neobert.model.heads import MaskedLM
from neobert.model.ngpt import normalize_
from neobert.optim.build import build_optimizer
from neobert.training.callbacks.attention_logits import NormalizedAttention
from neobert.training.trainer import weight_callbacks

CONFIG = ModelConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, ngpt=True
)
BATCH = PackedBatch.from_documents([[2, 5, 7, 3], [2, 4, 9, 8, 6, 3]])


class Module(LightningModule):
    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.model = MaskedLM(CONFIG, 11, 0)
        self.optimizer_config = OptimizerConfig(name=optimizer, lr=0.01, weight_decay=0.5)

    def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
        hidden = self.model.hidden(BATCH, torch.tensor([1, 5]))
        return masked_lm_loss(hidden, self.model.decoder_weight, torch.tensor([5, 4])).sum

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.optimizer_config, self.model.named_parameters(), num_heads=2)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muonclip"])
def test_every_step_of_training_ends_on_the_sphere(tmp_path, optimizer) -> None:
    module = Module(optimizer)
    before = module.model.model.transformer_encoder[0].qkv.weight.detach().clone()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=6,
        accumulate_grad_batches=2,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=weight_callbacks(Config(model=CONFIG)),
    )
    trainer.fit(module, DataLoader(range(12)))
    after = {name: weight.detach().clone() for name, weight in module.model.named_parameters()}
    assert not torch.equal(module.model.model.transformer_encoder[0].qkv.weight, before)
    normalize_(module.model)  # changes nothing where everything has length 1
    assert_close(dict(module.model.named_parameters()), after, atol=1e-6, rtol=0)
    assert all(group["weight_decay"] == 0 for group in trainer.optimizers[0].param_groups)


def test_plain_models_need_no_callback() -> None:
    assert weight_callbacks(Config(model=ModelConfig())) == []


def test_clipping_acts_on_the_learned_scale() -> None:
    model = MaskedLM(CONFIG, 11, 0)
    layer = model.model.attention_layers()[0]
    layer.record_max_logits = True
    attention = NormalizedAttention(layer, chunk_size=4)
    model.hidden(BATCH)
    before = attention.maxima.clone()
    threshold = before.mean().item()  # between the two heads
    assert attention.clip_(before, threshold, 0.5) == 1
    attention.reset()
    model.hidden(BATCH)
    assert_close(attention.maxima, before.clamp(max=threshold))
