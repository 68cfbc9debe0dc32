"""The images to look at as data: bytes, scales, rows, why each is shown, and that an image keeps to its size."""

import base64
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from siftlens.interrelation import gallery
from siftlens.interrelation.kept_rows import quantised
from siftlens.interrelation.results import GalleryImage
from siftlens.report import explorer
from siftlens.report.explorer import explorer_json, image_json
from siftlens.report.named import named_heads, named_in
from siftlens.report.page import page
from siftlens.report.payload import extremes

ALL = list(np.ndindex(5, 3))


def test_an_image_carries_its_bytes_and_scales(make_result):
    image = make_result(gallery=1).gallery[0]
    drawn = image_json(image, ALL, ())
    assert (drawn["height"], drawn["width"], drawn["rows"], drawn["cols"]) == (91, 143, 7, 11)
    assert drawn["concentration"][13] == image.concentration[1, 2]
    own = {part["key"]: part for part in drawn["attention"]}
    got = np.frombuffer(base64.b64decode(own["class"]["bytes"]), np.uint8).reshape(5, 3, 7, 11)
    np.testing.assert_array_equal(got, image.cls_attention)
    assert own["received"]["scale"][14] == pytest.approx(0.06)
    assert drawn["source"].startswith("data:image/jpeg;base64,")


def test_an_image_carries_its_rows(make_result):
    image = make_result(gallery=1).gallery[0]
    drawn = image_json(image, ALL, ())
    for name, kept in (("whole", image.whole), ("strongest", image.strongest)):
        assert drawn[name]["heads"] == kept.heads.tolist()
        assert drawn[name]["error"] == pytest.approx(kept.error, rel=1e-3)
        data = zlib.decompress(base64.b64decode(drawn[name]["packed"]))
        np.testing.assert_array_equal(np.frombuffer(data[: kept.values.size], np.uint8), kept.values.ravel())
    assert (drawn["whole"]["keyBytes"], drawn["strongest"]["keyBytes"]) == (0, 1)
    assert (drawn["whole"]["kept"], drawn["strongest"]["kept"]) == (77, 5)


def test_an_image_says_at_which_end_of_a_named_head_it_stands(make_result):
    result = make_result(n=23)
    ends = extremes(result.arrays, [str(name) for name in result.arrays["image"].values])
    effect = np.asarray(result.arrays["semantic_pull"])[:, 4, 2]
    order = np.argsort(effect)
    gallery = tuple(
        replace(result.gallery[0], identity=f"class/{place:03}.jpg") for place in (order[-2], order[0], order[11])
    )
    told = explorer_json(replace(result, gallery=gallery), [(4, 2)], ends)["images"]
    assert told[0]["reasons"] == [f"2nd largest pull of layer 4, head 2 ({effect[order[-2]]:+.2f}\u00a0SD)"]
    assert told[1]["reasons"][0].startswith("smallest pull of layer 4, head 2 (")
    assert told[2]["reasons"] == []


def test_of_a_very_large_model_the_overview_has_the_most_important_heads(make_result, monkeypatch):
    monkeypatch.setattr(explorer, "OVERVIEW_BYTES", 4 * 2 * 77)
    result = make_result(gallery=1)
    drawn = explorer_json(result, [(1, 1)], None)
    assert len(drawn["overview"]) == 4
    pull = result.heads.query("statistic == 'semantic_pull'").set_index(["layer", "head"])["effect"].abs()
    largest = pull.drop((1, 1)).nlargest(3).index.tolist()
    assert drawn["overview"] == sorted([(1, 1), *largest])
    part = drawn["images"][0]["attention"][0]
    data = np.frombuffer(base64.b64decode(part["bytes"]), np.uint8).reshape(4, 7, 11)
    place = drawn["overview"].index((1, 1))
    np.testing.assert_array_equal(data[place], result.gallery[0].cls_attention[1, 1])


def test_the_heads_that_findings_call_out_are_named_in_their_order(make_result):
    result = make_result()
    told = page(result).findings
    named = named_heads(result.heads, result.layers)
    assert named == named_in(told)
    assert named[0] == (4, 2)  # planted: the strongest
    labels = [estimate.label for finding in told for estimate in finding.evidence if "head " in estimate.label]
    expected = list(dict.fromkeys(label.partition(", against")[0] for label in labels))
    assert [f"layer {layer}, head {head}" for layer, head in named] == expected[:6]


@pytest.mark.parametrize(("layers", "heads", "side"), [(12, 12, 14), (12, 12, 32)])
def test_an_image_takes_at_most_a_megabyte_and_a_half(layers, heads, side):
    """Even where nothing can be compressed: attention, pixels and keypoints by chance."""
    rng, patches = np.random.default_rng(3), side * side
    order = list(np.ndindex(layers, heads))
    whole, strongest = {}, {}
    for place in order[: 16 if side > 14 else None]:
        shares = rng.dirichlet(np.full(patches + 1, 0.4), patches)[None, :, 1:]
        keys = np.sort(np.argsort(-shares, axis=2)[:, :, :16], axis=2).astype(np.uint16)
        strongest[place] = quantised(np.take_along_axis(shares, keys.astype(np.int64), axis=2), [place], keys)
        if place in order[:6]:
            whole[place] = quantised(shares, [place])
    strongest |= {place: strongest[order[0]] for place in order[16:] if place not in strongest}
    overview = min(gallery.OVERVIEW_BYTES, 2 * len(order) * patches)
    rows, _ = gallery._fitting(whole, strongest, order, gallery.IMAGE_BYTES - overview)
    assert len(rows["strongest"].heads) < len(order)  # the limit is felt
    shown = order[: overview // (2 * patches)]
    points = rng.uniform(0, 16 * side, (3, 4 * patches)).astype(np.float32)
    maps, scale = rng.integers(0, 255, (layers, heads, side, side), np.uint8), np.ones((layers, heads), np.float32)
    image = GalleryImage(
        identity="noise",
        pixels=rng.integers(0, 255, (16 * side, 16 * side, 3), np.uint8),
        keypoint_x=points[0],
        keypoint_y=points[1],
        keypoint_size=points[2],
        concentration=rng.random((side, side)).astype(np.float32),
        cls_attention=maps,
        cls_scale=scale,
        received=maps,
        received_scale=scale,
        **rows,
    )
    assert 1e6 < len(json.dumps(image_json(image, shown, ()))) < 1.5e6
