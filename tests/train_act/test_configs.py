"""The shipped configurations of imitation policies."""

import pytest
import torch

from act.config import make_pipeline_config
from act.dataset import open_dataset
from act.kinds import names
from act.optimizer import OptimizerConfig
from common.config import load_yaml
from common.errors import UserError
from envs.pusht.task import PushT
from tests.train_act.runs import ROOT
from train_act import read_config

KINDS = [name for name in names() if name != "smolvla"]  # tests/act/test_smolvla.py has its own
CONFIGS = sorted(path for kind in KINDS for path in ROOT.glob(f"configs/{kind}_*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_what_lerobot_is_asked_for(path, dataset, tmp_path):
    written = load_yaml(path)
    config = read_config(["--config", str(path), "--dataset.root", str(dataset)])
    meta = open_dataset(config.dataset, PushT())
    pipeline_config = make_pipeline_config(config, meta, torch.device("cpu"), tmp_path / "run")
    assert (pipeline_config.steps, pipeline_config.batch_size) == (written["steps"], written["batch_size"])
    asked = {
        name: value for name, value in written["policy"].items() if name != "latent_dropout"
    }  # it is ours
    assert {name: getattr(pipeline_config.policy, name) for name in asked} == asked
    assert pipeline_config.policy.optimizer_lr == pipeline_config.optimizer.lr == written["optimizer"]["lr"]
    backbone = written["optimizer"].get("lr_backbone", OptimizerConfig.lr_backbone)
    assert getattr(pipeline_config.policy, "optimizer_lr_backbone", backbone) == backbone


@pytest.mark.parametrize("name", ["flow_pusht_human", "diffusion_pusht_human"])
def test_a_learning_rate_of_a_backbone_that_it_has_not_is_refused(name, dataset, tmp_path):
    flags = ["--config", f"configs/{name}.yaml", "--dataset.root", str(dataset)]
    config = read_config([*flags, "--optimizer.lr-backbone", "1e-5"])
    meta = open_dataset(config.dataset, PushT())
    with pytest.raises(
        UserError, match="^optimizer.lr_backbone must be left out: policy.type (flow|diffusion)"
    ):
        make_pipeline_config(config, meta, torch.device("cpu"), tmp_path / "run")
