"""ASFF's items of the benchmark: what each fusion costs, inference, training step."""

from tools.benchmark_items import forward, inference, item, training_step

ASFF = "configs/asff/asff_darknet53_asff.py"
SIDE = 608


def _register_forward(fusion):
    @item(f"yolov3 forward without post-processing, {SIDE}x{SIDE}, fusion {fusion}")
    def run(options):
        return forward(ASFF, options, SIDE, SIDE, overrides=[f"model.backbone.fusion={fusion}"])


for name in ("asff", "sum", "concat", "none"):
    _register_forward(name)


@item(f"yolov3 asff inference, {SIDE}x{SIDE}")
def asff_inference(options):
    return inference(ASFF, options, SIDE, SIDE)


@item("yolov3 asff training step, 2x3x320x320, 10 boxes each")
def asff_step(options):
    return training_step(ASFF, options, images=2, height=320, width=320, boxes=10)
