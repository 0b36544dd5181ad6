import torch

train = dict(
    output_dir="output",
    init_checkpoint="",  # weights to start from, or to evaluate
    reinit_head=False,  # start the layers that depend on the classes afresh
    device="cuda" if torch.cuda.is_available() else "cpu",
    max_iter=22500,
    seed=0,  # negative: drawn, and written to config.yaml
    deterministic=False,
    cudnn_benchmark=False,
    check_data=True,  # read annotations and image headers before training
    amp=dict(enabled=False, dtype="auto", evaluate=False),  # auto: bfloat16 where the device has it
    accumulate=1,  # parts a batch is computed in
    clip_grad_norm=0.0,  # 0: off
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
    checkpointer=dict(period=2500, max_to_keep=3),
    eval_period=2500,
    fuse_conv_bn=True,  # evaluate a copy with batch norms merged into convolutions: the same function, faster
    log_period=20,
    pictures=8,  # of detections beside ground truth, after each evaluation; 0: none
    hooks=dict(),
)

# Multi-scale testing: HTC's usual scales. One max_size for all, or one each.
tta = dict(
    enabled=False,
    min_sizes=[600, 800, 1000, 1200, 1400],
    max_size=[900, 1200, 1500, 1800, 2100],
    flip=True,
    nms_thresh=None,  # None: the model's
)
