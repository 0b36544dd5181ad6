from dense_d2.data import (
    Composition,
    DenseMapper,
    Letterbox,
    LetterboxResize,
    MixUp,
    MosaicWarp,
    MultiScale,
    PictureReader,
    RandomFlip,
    RandomHSV,
    build_train_loader,
)

from detectron2.config import LazyCall as L

from .coco import dataloader, dataset

# YOLOX, section 2.1: Mosaic and MixUp until the last epochs, colour jitter and flips all the time, multi-scale by the model.
# All images are used, those without boxes too. An epoch of 64-image batches is 1849 iterations.
dataloader.train = L(build_train_loader)(
    dataset="${dataset.train.name}",
    mapper=L(PictureReader)(max_size="${..composition.input_size}"),
    composition=L(Composition)(
        input_size=640,
        strong_prob=1.0,
        strong=[
            L(MosaicWarp)(degrees=10, translate=0.1, scale=[0.1, 2.0], shear=2),
            L(MixUp)(scale=[0.5, 1.5]),
        ],
        final=[L(RandomHSV)(gains=[0.015, 0.7, 0.4]), L(RandomFlip)(prob=0.5), L(Letterbox)()],
        min_box_side=1,
        max_boxes=120,
        image_format="${model.input_format}",
    ),
    multi_scale=L(MultiScale)(
        sizes=[448, 480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800, 832],
        period=10,
        first="${..composition.input_size}",
    ),
    max_iter="${train.max_iter}",
    close_iters=16 * 1849,  # the released code's; the paper says 15 epochs
    total_batch_size=64,
    num_workers=8,
    seed="${train.seed}",
    aspect_ratio_grouping=False,
    filter_empty=False,
    keep_masks=False,
    cache="none",
    cache_dir="",
    max_unreadable_images=10,
)
dataloader.test.mapper = L(DenseMapper)(
    is_train=False,
    augmentations=[L(LetterboxResize)(size=640)],
    image_format="${model.input_format}",
)
