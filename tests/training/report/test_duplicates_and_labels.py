"""Which pictures of a run are compared, and what is a label in doubt, on arrays."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from training.report.duplicates import RunLooks
from training.report.labels import doubted_labels


class TestDuplicates:
    def test_only_wanted_pictures_are_compared_whatever_the_batches(self) -> None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (6, 64, 64, 3), dtype=torch.uint8, generator=generator)
        features = torch.rand(6, 2 * 36, generator=generator)
        pixels[5], features[5] = pixels[0], features[0]
        pixels[4], features[4] = pixels[1], features[1]
        looks = RunLooks()
        add = looks.of(np.array([True, True, False, False, False, True]))
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6)):
            add(pixels[rows], features[rows])
        assert [(pair.first, pair.second) for pair in looks.pairs()] == [(0, 2)], "numbers count the wanted ones"


class TestLabels:
    def test_an_image_that_looks_like_another_class_is_doubted(self) -> None:
        probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.1, 0.9], [0.2, 0.8]])
        (doubt,) = doubted_labels(probabilities, np.array([0, 0, 0, 1, 1]))
        assert (doubt.index, doubt.suggested, doubt.probability, doubt.label_probability) == (2, 1, 0.95, 0.05)

    def test_a_hard_image_below_the_mean_of_the_other_class_is_not(self) -> None:
        probabilities = np.array([[0.9, 0.1], [0.45, 0.55], [0.1, 0.9], [0.2, 0.8]])
        assert doubted_labels(probabilities, np.array([0, 0, 1, 1])) == []

    def test_the_most_doubtful_comes_first_and_absent_classes_are_not_suggested(self) -> None:
        probabilities = np.array([[0.3, 0.6, 0.1], [0.01, 0.98, 0.01], [0.1, 0.5, 0.4], [0.0, 0.1, 0.9]])
        found = doubted_labels(probabilities, np.array([0, 0, 1, 1]))
        assert [each.index for each in found] == [1, 0]
        assert {each.suggested for each in found} == {1}

    @settings(max_examples=40)
    @given(
        arrays.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(2, 4)), elements=st.floats(0.01, 1)),
        st.data(),
    )
    def test_it_is_the_off_diagonal_of_the_confident_joint(self, raw: np.ndarray, data: st.DataObject) -> None:
        """Against the definition, image by image."""
        p = raw / raw.sum(1, keepdims=True)
        labels = np.array(data.draw(st.lists(st.integers(0, p.shape[1] - 1), min_size=len(p), max_size=len(p))))
        threshold = {
            k: float(np.mean([p[i, k] for i in range(len(p)) if labels[i] == k])) for k in set(labels.tolist())
        }
        expected = set()
        for i in range(len(p)):
            reached = [k for k, least in threshold.items() if p[i, k] >= least + 1e-12]
            close = any(abs(p[i, k] - least) <= 1e-12 for k, least in threshold.items())
            if close:  # a mean of floats may round to either side
                continue
            if reached:
                best = max(reached, key=lambda k: (p[i, k], -k))
                if best != labels[i] and p[i, best] > p[i, labels[i]]:
                    expected.add((i, best))
        found = {(each.index, each.suggested) for each in doubted_labels(p, labels)}
        assert expected <= found
        for i, _ in found - expected:
            assert any(abs(p[i, k] - least) <= 1e-12 for k, least in threshold.items())
