import pytest

from neobert.config.compose import compose_config
from neobert.errors import ConfigError
from neobert.ops import kernels
from neobert.training.kernel_check import check_kernels


@pytest.mark.proves("model.kernel_backend")
def test_a_demand_for_liger_is_refused_before_anything_loads() -> None:
    config = compose_config(["model.kernel_backend=liger", "trainer.use_cpu=true"])
    with pytest.raises(ConfigError, match=r"kernel_backend=liger.*kernel_backend=auto"):
        check_kernels(config)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_the_others_run_anywhere(backend) -> None:
    check_kernels(compose_config([f"model.kernel_backend={backend}", "trainer.use_cpu=true"]))


def test_where_liger_runs_nothing_is_said(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "why_no_liger", lambda _: None)
    check_kernels(compose_config(["model.kernel_backend=liger"]))
