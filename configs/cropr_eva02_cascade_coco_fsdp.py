# The same model as shards over the processes of a launcher, instead of one copy in each. Without
# averaged weights, since a hook that averages a copy of the model has none here.
_base_ = "./cropr_eva02_cascade_coco.py"
custom_hooks = [hook for hook in _base_.custom_hooks if hook.type != "EMAHook"]
strategy = dict(type="FSDPStrategy")
