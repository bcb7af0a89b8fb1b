"""The runs that come with the package."""

from __future__ import annotations

import pytest
import torch

from paperlib.beyond import pretrained
from paperlib.data.prepare import prepare
from paperlib.run import Run

CONFIG = Run(pretrained.run(pretrained.names()[0])).config


@pytest.mark.parametrize("name", pretrained.names())
def test_they_are_whole_and_of_one_data_set(name):
    run = Run(pretrained.run(name))
    assert run.config.data == CONFIG.data
    assert run.config.name == name
    y, m = torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32)
    assert run.generator()(y, m, torch.zeros(2, run.config.nz)).isfinite().all()
    run.check()  # the weights are those that the record vouches for


def test_neither_run_has_seen_the_images_which_are_of_the_test_split(empty_workspace):
    data = prepare(CONFIG.data)
    row = {data.manifest["ids"][row]: row for row in data.indices("test")}
    for name, image in pretrained.images().items():
        levels = (image * 127.5 + 127.5).round().byte().permute(1, 2, 0)
        assert (data.images()[row[name]] == levels.numpy()).all()
