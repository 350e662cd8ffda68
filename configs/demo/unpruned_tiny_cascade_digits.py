_base_ = [
    "../_base_/models/cascade_mask_rcnn_tiny.py",
    "../_base_/datasets/demo_digits.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime/default.py",
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)))
