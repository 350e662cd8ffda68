"""What differs between the two lines of host libraries and matters here.

mmengine finds the package behind ``_base_ = "mmseg::..."`` by the name of its distribution, which
is ``mmsegmentation``. The maintained line calls it otherwise, so that such configs fail there.
``mmdet::`` and ``mmpretrain::`` need no help: their entries equal the module's name.
"""

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from mmengine.config.utils import MODULE2PACKAGE


def map_mmseg(packages: dict[str, str]) -> None:
    """Make ``mmseg::`` config inheritance work where the distribution has another name.

    Changes nothing where ``mmsegmentation`` is installed under that name, or not at all (then
    mmengine's own message tells what to install).

    Args:
        packages: mmengine's map from module to distribution name; changed in place.
    """
    try:
        distribution("mmsegmentation")
    except PackageNotFoundError:
        if find_spec("mmseg") is not None:
            # mmengine falls back to the module of that name: right for editable installs too.
            packages["mmseg"] = "mmseg"


map_mmseg(MODULE2PACKAGE)
