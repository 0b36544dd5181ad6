"""Run by test_trainer.py: one step of YOLOF on a batch, in one process and in two with half of it each (BN frozen).

python two_processes.py OUTPUT_DIR EMPTY_RANK       EMPTY_RANK=1: the second half has no box at all
"""

import os
import sys

sys.path.insert(0, os.getcwd())

from dense_d2.config import load_config  # noqa: E402
from dense_d2.engine import StepTrainer, launch  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from detectron2.config import instantiate  # noqa: E402
from detectron2.engine import create_ddp_model  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402
from detectron2.utils import comm  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402


def image_with_boxes(seed, count):
    rng = np.random.RandomState(seed)
    start = rng.uniform(0, 40, (count, 2))
    instances = Instances((96, 96))
    instances.gt_boxes = Boxes(
        torch.from_numpy(np.concatenate([start, start + rng.uniform(16, 50, (count, 2))], 1)).float()
    )
    instances.gt_classes = torch.from_numpy(rng.randint(0, 3, count))
    image = torch.from_numpy(rng.randint(0, 256, (3, 96, 96))).to(torch.uint8)
    return {"image": image, "instances": instances}


def main(args):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = load_config(
        "configs/yolof/yolof_thin_shapes.py", ["model.num_classes=3", "model.backbone.stages.base_channels=8"]
    )
    cfg.model.backbone.stem.out_channels = 8
    cfg.model.head.encoder.update(in_channels=32, channels=16, block_mid_channels=8)
    model = instantiate(cfg.model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counts = (3, 1, 0, 0) if args.empty_rank else (3, 1, 5, 0)
    batch = [image_with_boxes(seed, count) for seed, count in enumerate(counts)]
    share = len(batch) // comm.get_world_size()
    batch = batch[comm.get_rank() * share :][:share]
    wrapped = create_ddp_model(model, device_ids=None, broadcast_buffers=False)
    trainer = StepTrainer(wrapped, [batch], torch.optim.SGD(model.parameters(), lr=0.1), clip_grad_norm=5.0)
    for module in model.modules():  # after the trainer, which sets the training mode
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with EventStorage() as storage:
        trainer.run_step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    if comm.is_main_process():
        losses = {name: value for name, (value, _) in storage.latest().items() if "loss" in name or name == "grad_norm"}
        content = {"losses": losses, "model": model.state_dict(), "before": before}
        torch.save(content, os.path.join(args.output, f"{comm.get_world_size()}.pth"))


class Arguments:
    num_machines, machine_rank, dist_url = 1, 0, "auto"

    def __init__(self, num_gpus):
        self.num_gpus, self.output, self.empty_rank = num_gpus, sys.argv[1], int(sys.argv[2])


if __name__ == "__main__":
    for count in (1, 2):
        launch(main, Arguments(count))
