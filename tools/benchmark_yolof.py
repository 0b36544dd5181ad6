"""YOLOF's items of the benchmark."""

from tools.benchmark_items import inference, item, training_step

YOLOF = "configs/yolof/yolof_r50_c5_1x.py"


@item("yolof_r50_c5 inference, 800x1088")
def yolof_inference(options, plain=False):
    return inference(YOLOF, options, height=800, width=1088, plain=plain)


@item("yolof_r50_c5 inference, 800x1088, plain Detectron2 modules")
def yolof_inference_plain(options):
    return yolof_inference(options, plain=True)


@item("yolof_r50_c5 training step, 2x3x512x672, 15 boxes each")
def yolof_step(options, plain=False):
    return training_step(YOLOF, options, images=2, height=512, width=672, boxes=15, plain=plain)


@item("yolof_r50_c5 training step, 2x3x512x672, 15 boxes each, plain Detectron2 modules")
def yolof_step_plain(options):
    return yolof_step(options, plain=True)
