from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from .coco import dataloader, dataset

# Detectron2's usual pipeline: one of six short sides, and a flip.
dataloader.train.total_batch_size = 16
dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=[640, 672, 704, 736, 768, 800], max_size=1333, sample_style="choice"),
    L(T.RandomFlip)(horizontal=True),
]
