"""tools/visualize.py from the command line, and its pages in a browser."""

import base64
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cropr_mm.build import build_model
from cropr_mm.datasets import DemoSettings, make_demo_data
from cropr_mm.engine.config import load_config
from cropr_mm.visualization.trained import load_trained

CONFIGS = Path(__file__).parents[2] / "configs/demo"
DETECTOR = "cropr_tiny_cascade_digits.py"
CLASSIFIER = "cropr_tiny_vit_digits_cls.py"
SEGMENTER = "cropr_tiny_segmenter_digits.py"
RANDOM = "reducer=dict(_delete_=True, type='cropr_mm.RandomPruner')"
TOME = (
    "reducer=dict(_delete_=True, type='cropr_mm.ToMe'), schedule=dict(rate=30), fusion=None, "
    "out_type='cls_token'"
)
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
# Whatever a browser would do on its own account stays off; as root it has no sandbox.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,1200",
)
Tool = Callable[..., str]
Model = tuple[Path, Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images under ``images``, the second one with a name that is no HTML."""
    folder = tmp_path_factory.mktemp("visualize")
    make_demo_data(folder / "data", DemoSettings(num_train=1, num_val=2))
    (folder / "images").mkdir()
    files = sorted((folder / "data/images/val").glob("*.png"))
    for file, name in zip(files, ("one.png", "<b>two</b> & 'three'.png"), strict=True):
        name = name.replace("/", "\N{DIVISION SLASH}")
        shutil.copy(file, folder / "images" / name)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Callable[..., Model]:
    """Config and checkpoint of an untrained model: a demo config with another backbone."""

    def write(name: str, base: str, backbone: str = "", more: str = "", **meta: Any) -> Model:
        config, checkpoint = folder / f"{name}.py", folder / f"{name}.pth"
        if not config.exists():
            config.write_text(
                f"_base_ = '{CONFIGS / base}'\nmodel = dict(backbone=dict({backbone}){more})\n"
                + ("custom_hooks = []\n" if backbone else "")
            )
            torch.manual_seed(0)
            weights = build_model(load_config(str(config))).state_dict()
            torch.save(
                {"state_dict": weights, "meta": {"dataset_meta": meta} if meta else {}}, checkpoint
            )
        return config, checkpoint

    return write


def images(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir(), reverse=True)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium without a network; its logs tell of errors and of what it asked for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver in PATH: pages are not looked at")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER, env={**os.environ, "no_proxy": "*"})
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def open_page(browser: Any, page: Path) -> None:
    """Open a page and wait until it is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("about:blank")
    browser.get_log("performance")  # what the browser's own first page asked for
    browser.get(page.as_uri())
    WebDriverWait(browser, 20).until(lambda b: texts(b, ".label") and all(texts(b, ".label")))


def set_block(browser: Any, block: int) -> None:
    """Move the slider to a block, from 1."""
    browser.execute_script(
        "const s = document.getElementById('block'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'));",
        block,
    )


def texts(browser: Any, selector: str) -> list[str]:
    from selenium.webdriver.common.by import By

    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def centers(browser: Any, number: int) -> NDArray[np.int64]:
    """Color at the center of each patch of a canvas, (P, 3), RGB."""
    values = browser.execute_script(
        "const c = document.querySelectorAll('canvas')[arguments[0]], found = [];"
        "const copy = new OffscreenCanvas(c.width, c.height);"
        "const context = copy.getContext('2d', {willReadFrequently: true});"
        "context.drawImage(c, 0, 0);"
        "const d = context.getImageData(0, 0, c.width, c.height).data;"
        "for (let y = 12; y < c.height; y += 24)"
        "  for (let x = 12; x < c.width; x += 24)"
        "    found.push(Array.from(d.slice(4 * (y * c.width + x), 4 * (y * c.width + x) + 3)));"
        "return found;",
        number,
    )
    return np.array(values)


def pixels_of(file: Path) -> NDArray[np.int64]:
    """The same of the image, which the page enlarges three times."""
    return cv2.imread(str(file))[4::8, 4::8, ::-1].reshape(-1, 3).astype(np.int64)


def page_data(page: str) -> dict[str, Any]:
    """What a page holds for its script."""
    content = re.search(r'<script id="data" type="application/json">(.*?)</script>', page)
    assert content is not None
    return json.loads(content[1])


def picture(address: str) -> NDArray[np.uint8]:
    """Picture behind a data address, (H, W, 3), BGR."""
    content = base64.b64decode(address.partition(",")[2])
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def requests_and_errors(browser: Any) -> tuple[set[str], list[str]]:
    """Schemes and paths of everything that was asked for, and messages of the console."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        urlparse(event["params"]["request"]["url"])
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    asked = {u.scheme if u.scheme == "data" else f"{u.scheme}:{unquote(u.path)}" for u in urls}
    return asked, [entry["message"] for entry in browser.get_log("browser")]


def test_slider_shows_the_patches_that_were_recorded(
    tool: Tool, folder: Path, model: Callable[..., Model], browser: Any, tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    models = [model("cropr", DETECTOR), model("random", DETECTOR, RANDOM)]
    page, files = tmp_path / "deep/page.html", images(folder)
    out = tool("visualize.py", *models[0], *files, "--against", *models[1], "--out", page)
    assert str(page) in out
    assert page.stat().st_size < 2e6

    open_page(browser, page)
    assert texts(browser, "h2")[:2] == [str(file) for file in files]
    assert texts(browser, "h3") == ["cropr", "random"] * 2
    assert texts(browser, "#number") == ["7 of 8"]  # all steps are done, nothing is back
    tokens = [256, 256, 144, 144, 64, 64, 16, 256]
    left = []
    for config, checkpoint in models:
        trained = load_trained("model", load_config(str(config)), str(checkpoint))
        left.append([trained.look(str(file)).tokens.left_after[0] for file in files])
    assert not np.array_equal(left[0][0], left[1][0])
    for block in (1, 3, 5, 7, 8):
        set_block(browser, block)
        for number, label in enumerate(texts(browser, ".label")):
            assert label.startswith(f"Block {block} of 8: {tokens[block - 1]} tokens, 0.0")
            gone = left[number % 2][number // 2]
            alive = (gone < 0) | (gone >= block - 1) | (block == 8)
            assert alive.sum() == tokens[block - 1]
            shown, pixels = centers(browser, number), pixels_of(files[number // 2])
            np.testing.assert_array_equal(shown[alive], pixels[alive])
            dark = 0.2 * pixels[~alive] + 0.8 * np.array([12, 14, 18])
            np.testing.assert_allclose(shown[~alive], dark, atol=2)
    details = texts(browser, ".detail")
    assert details == ["all 256 patches are back"] * 4

    browser.execute_script("document.getElementById('block').focus()")
    slider = browser.switch_to.active_element
    slider.send_keys(Keys.ARROW_LEFT)
    assert texts(browser, ".label")[0].startswith("Block 7 of 8: 16 tokens")
    assert slider.get_attribute("aria-valuetext") == "block 7 of 8"
    slider.send_keys(Keys.HOME)
    assert texts(browser, ".detail")[0] == "256 of 256 patches"
    assert texts(browser, "tr.now th") == ["1"]

    assert requests_and_errors(browser) == ({f"file:{page}", "data"}, [])


def test_patches_tell_where_they_left(
    tool: Tool, folder: Path, model: Callable[..., Model], browser: Any, tmp_path: Path
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    config, checkpoint = model("cropr", DETECTOR)
    page, file = tmp_path / "page.html", images(folder)[0]
    tool("visualize.py", config, checkpoint, file, "--out", page)
    trained = load_trained("model", load_config(str(config)), str(checkpoint))
    left = trained.look(str(file)).tokens.left_after[0]
    open_page(browser, page)
    colors = centers(browser, 0)
    browser.find_element(By.ID, "colors").click()
    assert not np.array_equal(colors, centers(browser, 0))
    assert texts(browser, ".legend li") == [f"after block {b}" for b in (2, 4, 6)]
    element = browser.find_element(By.TAG_NAME, "canvas")
    side = element.size["width"] / 16
    for cell in (int(np.flatnonzero(left == 3)[0]), int(np.flatnonzero(left < 0)[0])):
        row, column = divmod(cell, 16)
        offset = [int((i - 7.5) * side) for i in (column, row)]  # from the center
        ActionChains(browser).move_to_element_with_offset(element, *offset).perform()
        end = "leaves after block 4" if left[cell] == 3 else "stays to the end"
        assert texts(browser, ".hover") == [f"Row {row + 1}, column {column + 1}: {end}"]


def test_merged_patches_have_one_color_and_no_name_is_html(
    tool: Tool, folder: Path, model: Callable[..., Model], browser: Any, tmp_path: Path
) -> None:
    evil = "<img src=x onerror=alert(1)></script>"
    tome = model("tome", CLASSIFIER, TOME, classes=[evil, "one", "two", "three"])
    dense = model("dense", "unpruned_tiny_vit_digits_cls.py")
    page, file = tmp_path / "page.html", images(folder)[1]
    tool(
        "visualize.py", *tome, file, "--against", *dense, "--out", page, "--names", "<i>a</i>", "b"
    )
    trained = load_trained("tome", load_config(str(tome[0])), str(tome[1]))
    clusters = trained.look(str(file)).tokens.clusters
    open_page(browser, page)
    assert texts(browser, "h2")[0] == str(file)
    assert texts(browser, "h3") == ["<i>a</i>", "b"]
    assert evil in texts(browser, ".lines .name")
    assert browser.execute_script("return document.images.length") == 0
    set_block(browser, 5)
    assert texts(browser, ".label")[0].startswith("Block 5 of 8: 136 tokens")
    assert texts(browser, ".detail") == ["256 of 256 patches in 135 clusters", "256 of 256 patches"]
    names = clusters[3][0]  # of the last step before block 5
    tint = centers(browser, 0)
    pixels = pixels_of(file)
    np.testing.assert_array_equal(centers(browser, 1), pixels)
    colors = tint - 0.4 * pixels  # 0.6 of the color of the cluster
    for name in set(names.tolist()):
        members = names == name
        if members.sum() == 1:
            np.testing.assert_array_equal(tint[members], pixels[members])
        else:
            assert np.ptp(colors[members], axis=0).max() <= 2
    set_block(browser, 1)
    assert texts(browser, ".detail") == ["256 of 256 patches"] * 2
    costs = [cell for cell in texts(browser, "td") if "." in cell]
    assert len({len(cost.partition(".")[2]) for cost in costs}) == 1, "as many decimals each"
    assert requests_and_errors(browser) == ({f"file:{page}", "data"}, [])


def test_segmenters_show_label_maps_and_classes(
    tool: Tool, folder: Path, model: Callable[..., Model], browser: Any, tmp_path: Path
) -> None:
    page, file = tmp_path / "page.html", images(folder)[0]
    tool("visualize.py", *model("segmenter", SEGMENTER), file, "--out", page)
    open_page(browser, page)
    assert browser.execute_script("return document.images[0].naturalWidth") == 384
    names = texts(browser, ".lines .name")
    assert names
    assert set(names) <= set(load_config(str(CONFIGS / SEGMENTER)).classes)


def test_slider_starts_where_no_model_has_its_patches_back(
    tool: Tool, folder: Path, model: Callable[..., Model], browser: Any, tmp_path: Path
) -> None:
    late = "schedule=dict(_delete_=True, type='cropr_mm.ExplicitTokens', num_keep={6: 128})"
    cropr = model("segmenter", SEGMENTER)  # fused before block 8
    merged = model("merged", SEGMENTER, f"{TOME.partition(', schedule')[0]}, fusion=None, {late}")
    page = tmp_path / "page.html"
    tool("visualize.py", *cropr, images(folder)[0], "--against", *merged, "--out", page)
    open_page(browser, page)
    assert texts(browser, "#number") == ["7 of 8"]
    assert texts(browser, ".detail")[0] == "34 of 256 patches"


def test_padded_inputs_line_up_with_predictions_and_runs_are_alike(
    tool: Tool, folder: Path, model: Callable[..., Model], tmp_path: Path
) -> None:
    narrow = tmp_path / "narrow.png"
    cv2.imwrite(str(narrow), cv2.imread(str(images(folder)[0]))[:, :80])
    pages = []
    for name in ("a.html", "b.html"):
        random = model("random", DETECTOR, RANDOM)
        tool("visualize.py", *random, narrow, "--score-thr", 0.0, "--out", tmp_path / name)
        pages.append((tmp_path / name).read_text())
    assert pages[0] == pages[1]
    data = page_data(pages[0])
    (panel,) = data["images"][0]["panels"]
    seen, drawn = (
        picture(data["pictures"][i]) for i in (panel["input"], panel["predicted"]["picture"])
    )
    assert (seen.shape, panel["zoom"]) == ((128, 96, 3), 5)  # 80 pixels become at least 384
    assert drawn.shape == (640, 480, 3)
    np.testing.assert_array_equal(seen[:, :80], cv2.imread(str(narrow)))
    for image, edge in ((seen, 80), (drawn, 400)):
        gray = image[:, edge + 8 :].astype(int)  # JPEG blurs the edge of the larger one
        assert abs(gray - 127).max() <= 2
        assert image[:, edge - 1].std() > 0
    assert data["costs"][0]["size"] == [128, 96]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: [*a, "--names", "a", "b"], "expected 1 different names (--names), got a, b"),
        (
            lambda a: [*a, "--against", *a[:2]],
            "expected 2 different names (--names), got cropr, cropr",
        ),
        (lambda a: [*a[:2], "none.png"], "expected an image file, found none at none.png"),
        (lambda a: [*a[:2], a[0]], "expected an image file that OpenCV reads, got "),
        (lambda a: ["none.py", *a[1:]], "expected a config file, found none at none.py"),
        (lambda a: [a[0], "none.pth", a[2]], "no checkpoint file at none.pth"),
        (lambda a: [*a, "--out", "page.png"], "--out expects a file that ends in .html"),
        (lambda a: [*a, "--device", "abacus"], "--device abacus: "),
    ],
)
def test_a_wrong_call_is_refused(
    tool: Tool,
    folder: Path,
    model: Callable[..., Model],
    change: Callable[[list], list],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as end:
        tool("visualize.py", *change([*model("cropr", DETECTOR), images(folder)[0]]))
    assert str(end.value).startswith(f"error: {message}")


def test_models_that_cannot_be_shown_are_refused(
    tool: Tool, folder: Path, model: Callable[..., Model], tmp_path: Path
) -> None:
    cropr, random = model("cropr", DETECTOR), model("random", DETECTOR, RANDOM)
    slide = model("slide", SEGMENTER, more=", test_cfg=dict(mode='slide')")
    other = tmp_path / "other.py"
    other.write_text("_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'\n")
    file = images(folder)[0]
    for pair, message in (
        ((random[0], cropr[1]), "is not a checkpoint of this config"),
        ((other, cropr[1]), "expected a model with one backbone that reduces tokens"),
        (slide, "expected one pass of the encoder per image"),
        ((cropr[0], cropr[0]), "not a readable checkpoint"),
    ):
        out = tmp_path / "page.html"
        with pytest.raises(SystemExit, match=message) as end:
            tool(
                "visualize.py", *cropr, file, "--against", *pair, "--names", "a", "b", "--out", out
            )
        assert str(end.value).startswith("error: ")
        assert not out.exists()
