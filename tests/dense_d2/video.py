"""Made videos in the layout of Argoverse-HD, for the tests of streaming evaluation."""

FPS = 10.0


def video(lengths=(4,), speed=30):
    """One 20-pixel box a frame, moving by more than its width; perfect detections. Image ids are 10 times the index."""
    images, annotations, detections = [], [], []
    for sid, length in enumerate(lengths):
        for fid in range(length):
            image_id = 10 * (len(images) + 1)
            box = [float(speed * fid), 50.0 * sid, 20.0, 20.0]
            images.append({"id": image_id, "sid": sid, "fid": fid, "width": 640, "height": 480, "file_name": "x.png"})
            annotations.append({"id": len(images), "image_id": image_id, "category_id": 3, "bbox": box, "iscrowd": 0})
            detections.append({"image_id": image_id, "category_id": 3, "bbox": box, "score": 0.9})
    dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "car"}],
        "sequences": [f"drive{sid}" for sid in range(len(lengths))],
        "seq_dirs": [f"drive{sid}" for sid in range(len(lengths))],
    }
    return dataset, detections
