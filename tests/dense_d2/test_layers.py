from dense_d2.errors import UserError
from dense_d2.modeling.layers import make_activation, make_norm

import pytest
from torch import nn


def test_norm_has_its_own_constants():
    norm = make_norm("BN", 8, eps=1e-3, momentum=0.03)
    assert isinstance(norm, nn.BatchNorm2d) and (norm.num_features, norm.eps, norm.momentum) == (8, 1e-3, 0.03)
    assert make_norm("", 8) is None


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(UserError, match="norm 'batchnorm' is not known; use \"BN\", "):
        make_norm("batchnorm", 8)
    with pytest.raises(UserError, match="activation 'swish' is not known; use one of .*'SiLU'"):
        make_activation("swish")
