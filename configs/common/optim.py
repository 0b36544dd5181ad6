from dense_d2.engine import param_groups

import torch
from detectron2.config import LazyCall as L

# lr and weight decay are the row's; the groups follow them.
_groups = L(param_groups)(lr="${..lr}", weight_decay="${..weight_decay}", weight_decay_norm=0.0, lr_factors={})

sgd = L(torch.optim.SGD)(params=_groups, lr=0.12, momentum=0.9, weight_decay=1e-4, fused=True)

adamw = L(torch.optim.AdamW)(params=_groups, lr=1e-3, weight_decay=0.05, fused=True)
