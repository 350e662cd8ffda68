"""What options of the tools make of a config."""

from mmengine.config import Config

from cropr_mm.engine.options import disable_amp


def test_without_amp_the_plain_wrapper_stays_and_what_only_amp_knows_goes() -> None:
    wrapper = dict(
        type="cropr_mm.CroprAmpOptimWrapper",
        optimizer=dict(type="AdamW", lr=1e-3),
        clip_grad=dict(max_norm=1.0),
        loss_scale="dynamic",
        dtype="bfloat16",
    )
    cfg = Config(dict(optim_wrapper=wrapper))
    disable_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == dict(
        type="cropr_mm.CroprOptimWrapper",
        optimizer=dict(type="AdamW", lr=1e-3),
        clip_grad=dict(max_norm=1.0),
    )


def test_a_wrapper_without_amp_stays_as_it_is() -> None:
    wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
    cfg = Config(dict(optim_wrapper=wrapper))
    disable_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == wrapper
