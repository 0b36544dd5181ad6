from dense_d2.data import (
    BetaMixUp,
    Composition,
    DenseMapper,
    Expand,
    MinIoUCrop,
    MultiScale,
    PhotometricDistortion,
    PictureReader,
    RandomAffine,
    RandomFlip,
    Stretch,
    StretchResize,
    build_train_loader,
)

from detectron2.config import LazyCall as L

from .coco import dataloader, dataset

# ASFF, section 4.1 and released code: mixup until the last 29 of 301 epochs, SSD's augmentation and a random affine map, a
# random square every 10 iterations. Images are stretched, not letterboxed. Crowds count as objects, images without boxes are
# used. An epoch of 64-image batches is 1848 iterations.
dataloader.train = L(build_train_loader)(
    dataset="${dataset.train.name}",
    mapper=L(PictureReader)(keep_crowds=True, last_pixel_boxes=True),
    composition=L(Composition)(
        input_size=608,
        strong=[L(BetaMixUp)(alpha=1.5)],
        final=[
            L(PhotometricDistortion)(brightness=32, contrast=[0.5, 1.5], hue=18, saturation=[0.5, 1.5], prob=0.5),
            L(Expand)(most=4, prob=0.5),
            L(MinIoUCrop)(min_ious=[None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0], scale=[0.3, 1.0]),
            L(RandomFlip)(prob=0.5),
            L(RandomAffine)(degrees=10, translate=0.1, scale=[0.9, 1.1], shear=2, prob=0.5),
            L(Stretch)(interpolations=["linear", "cubic", "area", "nearest", "lanczos"]),
        ],
        fallback=[L(Stretch)(interpolations=["linear"])],  # where no box is left
        min_box_side=6,
        max_boxes=50,
        image_format="${model.input_format}",
    ),
    multi_scale=L(MultiScale)(
        sizes=[320, 352, 384, 416, 448, 480, 512, 544, 576, 608],
        period=10,
        first="${..composition.input_size}",
        in_pipeline=True,
        max_iter="${train.max_iter}",
        fixed_iters=10 * 1848,
    ),
    max_iter="${train.max_iter}",
    close_iters=29 * 1848,
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
    augmentations=[L(StretchResize)(size=608)],
    image_format="${model.input_format}",
)
