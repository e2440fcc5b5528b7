"""The loss of a student, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from training.distil.loss import distillation_loss, mean_targets, soft_targets

LN2, LN3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("temperature", "weight", "expected"),
    [
        # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2)
        (1.0, 1.0, 0.75 * math.log(1.5) - 0.25 * LN2),
        (1.0, 0.6, 0.6 * (0.75 * math.log(1.5) - 0.25 * LN2) + 0.4 * LN2),
        # at T = 2: p = (r, 1) / (r + 1) with r = sqrt(3); 4 KL = 0.14536
        (2.0, 1.0, 0.14536),
        (2.0, 0.5, 0.5 * 0.14536 + 0.5 * LN2),
    ],
)
def test_values(temperature: float, weight: float, expected: float) -> None:
    teacher_NK = soft_targets(torch.tensor([[[LN3, 0.0]]]), temperature)
    labels_loss = nn.functional.cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
    loss = distillation_loss(torch.zeros(1, 2), teacher_NK, labels_loss, temperature=temperature, weight=weight)
    assert loss.item() == pytest.approx(expected, abs=2e-5)  # the digits of 0.14536


def test_it_is_the_mean_over_the_images() -> None:
    teacher_NK = soft_targets(torch.tensor([[[LN3, 0.0]], [[0.0, 0.0]]]), 1.0)
    loss = distillation_loss(torch.zeros(2, 2), teacher_NK, torch.tensor(9.0), temperature=1.0, weight=1.0)
    assert loss.item() == pytest.approx((0.75 * math.log(1.5) - 0.25 * LN2) / 2, rel=1e-5)  # the second has distance 0


@given(
    st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    st.sampled_from([0.5, 1.0, 2.0, 5.0]),
    st.sampled_from([0.25, 1.0]),
)
def test_the_gradient_is_the_difference_of_the_probabilities(
    student: list[float], teacher: list[float], temperature: float, weight: float
) -> None:
    """d/dz of T² KL is T (q - p): Hinton et al., section 2.1."""
    logits_NK = torch.tensor([student], requires_grad=True)
    teacher_logits_NK = torch.tensor([teacher], requires_grad=True)
    with torch.no_grad():
        teacher_NK = soft_targets(teacher_logits_NK[:, None], temperature)
    distillation_loss(logits_NK, teacher_NK, torch.tensor(0.0), temperature=temperature, weight=weight).backward()
    q_NK = (logits_NK.detach() / temperature).softmax(1)
    torch.testing.assert_close(logits_NK.grad, weight * temperature * (q_NK - teacher_NK), rtol=1e-4, atol=1e-5)
    assert teacher_logits_NK.grad is None


def test_of_views_and_of_teachers_the_probabilities_are_averaged_not_the_logits() -> None:
    sure, unsure = [10.0, 0.0], [0.0, 0.0]
    two_views = soft_targets(torch.tensor([[sure, unsure]]), 1.0)
    two_teachers = mean_targets([soft_targets(torch.tensor([[each]]), 1.0) for each in (sure, unsure)])
    expected = torch.tensor([[0.75, 0.25]])  # (1 + 1/2) / 2, up to e^-10; by the mean of the logits it would be 0.993
    torch.testing.assert_close(two_views, expected, rtol=0, atol=5e-5)
    torch.testing.assert_close(two_teachers, two_views)
