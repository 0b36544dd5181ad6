"""VFNet's items of the benchmark: forward, inference, training step, deformable convolution, assignment."""

from dense_d2.modeling.deform_conv import deform_conv2d
from tools.benchmark_items import build, forward, inference, item, random_instances, training_step
from vfnet_d2.head import VFNetPredictions

import torch
import torchvision
from detectron2.structures import ImageList

VFNET = "configs/vfnet/vfnet_r50_1x.py"
HEIGHT, WIDTH, IMAGES = 800, 1088, 2


@item("vfnet_r50 forward without post-processing, 800x1088")
def vfnet_forward(options):
    return forward(VFNET, options, HEIGHT, WIDTH)


@item("vfnet_r50 inference, 800x1088")
def vfnet_inference(options):
    return inference(VFNET, options, HEIGHT, WIDTH)


@item("vfnet_r50 training step, 2x3x512x672, 15 boxes each")
def vfnet_step(options):
    return training_step(VFNET, options, images=2, height=512, width=672, boxes=15)


def _register_deform_conv(name, convolve):
    @item(f"deform_conv2d forward and backward, 1x256x100x136, {name}")
    def deform_conv(options):
        generator = torch.Generator().manual_seed(0)
        x, offset, weight = (
            torch.randn(shape, generator=generator).to(options.device).requires_grad_()
            for shape in ((1, 256, 100, 136), (1, 18, 100, 136), (256, 256, 3, 3))
        )

        def run():
            torch.autograd.grad(convolve(x, offset, weight, padding=1).sum(), (x, offset, weight))

        return run


_register_deform_conv("ours", deform_conv2d)
_register_deform_conv("torchvision", torchvision.ops.deform_conv2d)


def _register_assignment(boxes):
    where = f"{IMAGES} images of {HEIGHT}x{WIDTH}, {boxes} boxes each"

    @item(f"vfnet assignment, {where}")
    def assignment(options):
        model, images, predictions, gt_instances = assignment_inputs(options, boxes)

        def run():
            model.label_points(model.make_grid(predictions, images.image_sizes), gt_instances)

        return run

    @item(f"vfnet assignment and losses, {where}")
    def assignment_and_losses(options):
        """All that a training step does between the head and the backward pass."""
        model, images, predictions, gt_instances = assignment_inputs(options, boxes)

        def run():
            model.forward_training(images, None, predictions, gt_instances)

        return run


for number in (1, 10, 100, 500):
    _register_assignment(number)


def assignment_inputs(options, boxes):
    """The detector, the sizes of images, random predictions for them and boxes."""
    model = build(VFNET, options)[1].train()
    size = HEIGHT, -(-WIDTH // 128) * 128  # P7 too has whole cells
    generator = torch.Generator().manual_seed(0)

    def maps(channels):
        sizes = [(IMAGES, channels, -(-size[0] // stride), size[1] // stride) for stride in model.head.strides]
        return [torch.randn(shape, generator=generator).to(options.device) for shape in sizes]

    ltrb, refined = ([x.abs() * stride for x, stride in zip(maps(4), model.head.strides)] for _ in range(2))
    predictions = VFNetPredictions(maps(model.num_classes), ltrb, refined, None)
    gt_instances = [random_instances(HEIGHT, WIDTH, boxes, seed).to(options.device) for seed in range(IMAGES)]
    return model, ImageList(torch.zeros(IMAGES, 3, 1, 1), [(HEIGHT, WIDTH)] * IMAGES), predictions, gt_instances
