from dense_d2.data import DenseMapper, RandomShift, build_test_loader, build_train_loader
from dense_d2.evaluation import FastCOCOEvaluator

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

# Names known to Detectron2, or any COCO-format data: a folder of images and an annotation file.
dataset = dict(
    train=dict(name="coco_2017_train", images="", annotations=""),
    test=dict(name="coco_2017_val", images="", annotations=""),
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset="${dataset.train.name}",
        mapper=L(DenseMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=[800], max_size=1333, sample_style="choice"),
                L(T.RandomFlip)(horizontal=True),
                L(RandomShift)(max_shift=32, prob=0.5),
            ],
            image_format="${model.input_format}",
        ),
        total_batch_size=64,
        num_workers=8,
        seed="${train.seed}",
        aspect_ratio_grouping=True,
        filter_empty=True,
        max_unreadable_images=10,
    ),
    test=L(build_test_loader)(
        dataset="${dataset.test.name}",
        mapper=L(DenseMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format="${model.input_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(FastCOCOEvaluator)(
        dataset_name="${dataset.test.name}",
        output_dir="${train.output_dir}/inference",
    ),
)
