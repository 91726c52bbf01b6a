"""The shipped configurations of ACT."""

import pytest
import torch

from act.config import Config, in_lerobots_terms
from act.dataset import open_dataset
from act.learner import OptimizerConfig
from common.config import load_yaml, parse
from tests.train_act.runs import ROOT


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/act_*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_configuration_is_what_lerobot_is_asked_for(path, dataset, tmp_path):
    written = load_yaml(path)
    config = parse(Config, ["--config", str(path), "--dataset.root", str(dataset)])
    meta = open_dataset(config.dataset)
    terms = in_lerobots_terms(config, meta, torch.device("cpu"), tmp_path / "run")
    assert (terms.steps, terms.batch_size) == (written["steps"], written["batch_size"])
    assert {name: getattr(terms.policy, name) for name in written["policy"]} == written["policy"]
    assert terms.policy.optimizer_lr == terms.optimizer.lr == written["optimizer"]["lr"]
    backbone = written["optimizer"].get("lr_backbone", OptimizerConfig.lr_backbone)
    assert terms.policy.optimizer_lr_backbone == backbone
