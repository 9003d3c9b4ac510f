import copy
import math

import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.nn.teacher import EMATeacher
from holdfast.representation.self_distillation import DINOLoss, MultiCropWrapper, random_resized_crops


def test_loss_is_the_mean_over_pairs_of_different_crops():
    g = generator(100)
    student = torch.randn(5, 3, 7, generator=g, dtype=torch.float64)
    teacher = torch.randn(2, 3, 7, generator=g, dtype=torch.float64)
    loss = DINOLoss(7, 0.2, 0.05).double().eval()
    loss.center.copy_(torch.randn(7, generator=g))
    terms = []
    for t in range(2):
        p = ((teacher[t] - loss.center) / 0.05).softmax(1)
        terms += [-(p * (student[s] / 0.2).log_softmax(1)).sum(1).mean() for s in range(5) if s != t]
    torch.testing.assert_close(loss(student, teacher), torch.stack(terms).mean())


def test_gradient_reaches_the_student_alone_and_the_centre_follows_the_teacher():
    g = generator(100)
    student = torch.randn(3, 4, 6, generator=g, requires_grad=True)
    teacher = torch.randn(2, 4, 6, generator=g, requires_grad=True)
    loss = DINOLoss(6, center_momentum=0.8)
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert float(student.grad.abs().max()) > 0
    torch.testing.assert_close(loss.center, 0.2 * teacher.detach().mean((0, 1)))
    before = loss.center.clone()
    loss.eval()(student, teacher)
    torch.testing.assert_close(loss.center, before, atol=0, rtol=0)


def test_a_constant_added_to_teacher_and_centre_cancels():
    g = generator(100)
    student, teacher = torch.randn(3, 4, 6, generator=g), torch.randn(2, 4, 6, generator=g)
    loss = DINOLoss(6).eval()
    before = loss(student, teacher)
    shift = torch.randn(6, generator=g)
    loss.center.copy_(shift)
    torch.testing.assert_close(loss(student, teacher + shift), before, rtol=1e-4, atol=1e-4)


def test_teacher_follows_by_its_momentum_and_copies_buffers():
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = EMATeacher(student, 0.9)
    old, new = copy.deepcopy(student.state_dict()), nn.init.normal_
    for p in student.parameters():
        new(p, generator=generator(100))
    student(torch.randn(8, 3, generator=generator(101)))
    teacher.update(student)
    ours = teacher.teacher.state_dict()
    for name, p in student.named_parameters():
        torch.testing.assert_close(ours[name], 0.9 * old[name] + 0.1 * p)
    torch.testing.assert_close(ours["1.running_mean"], student[1].running_mean)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_momentum_rises_to_one_along_a_cosine_and_then_stays():
    student = nn.Linear(1, 1)
    teacher = EMATeacher(student, 0.5, total=4)
    seen = []
    for _ in range(6):
        seen.append(teacher.momentum)
        teacher.update(student)
    expected = [1 - 0.25 * (math.cos(math.pi * min(i, 4) / 4) + 1) for i in range(6)]
    assert seen == pytest.approx(expected)


def test_crops_of_several_sizes_come_back_in_order():
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    wrapper = MultiCropWrapper(encoder, nn.Linear(4, 2))
    g = generator(100)
    crops = [torch.rand(3, 1, s, s, generator=g) for s in (8, 4, 8, 4, 6)]
    together = wrapper(crops).chunk(5)
    for crop, out in zip(crops, together):
        torch.testing.assert_close(out, wrapper.head(encoder(crop)))


def test_the_whole_image_is_a_crop_of_scale_one():
    images = torch.rand(64, 2, 8, 8, generator=generator(100))
    crops = random_resized_crops(images, 8, (1.0, 1.0), generator(101), ratio=(1.0, 1.0))
    same = (crops - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (crops - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert bool((same ^ mirrored).all())
    assert 16 < int(same.sum()) < 48


def test_crops_cover_the_share_of_area_asked_for_and_stay_inside():
    # On images that hold their own coordinates the range of a crop is the size of its box.
    axis = (torch.arange(64) + 0.5) / 64
    images = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(500, 2, 64, 64)
    crops = random_resized_crops(images, 16, (0.1, 0.3), generator(100))
    extent = (crops.amax((2, 3)) - crops.amin((2, 3))) * 16 / 15
    area = extent.prod(1)
    assert float(area.min()) > 0.095
    assert float(area.max()) < 0.31
    assert float(area.mean()) == pytest.approx(0.2, abs=0.01)
    aspect = (extent[:, 1] / extent[:, 0]).log()
    assert float(aspect.abs().max()) < math.log(4 / 3) + 0.02


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("student must", lambda: DINOLoss(4)(torch.zeros(2, 3, 5), torch.zeros(2, 3, 4))),
        ("batch size", lambda: DINOLoss(4)(torch.zeros(2, 3, 4), torch.zeros(2, 2, 4))),
        ("at least 2", lambda: DINOLoss(4)(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))),
        ("finite", lambda: DINOLoss(4)(torch.full((2, 3, 4), float("nan")), torch.zeros(2, 3, 4))),
        ("teacher_temperature", lambda: DINOLoss(4, teacher_temperature=0.0)),
        ("momentum", lambda: EMATeacher(nn.Linear(1, 1), 1.5)),
        ("differ in parameters", lambda: EMATeacher(nn.Linear(1, 1)).update(nn.Linear(1, 1, bias=False))),
        ("at least one", lambda: MultiCropWrapper(nn.Identity(), nn.Identity())([])),
        ("equally many", lambda: MultiCropWrapper(nn.Identity(), nn.Identity())([torch.zeros(1), torch.zeros(2)])),
        ("scale", lambda: random_resized_crops(torch.zeros(1, 1, 4, 4), 2, (0.5, 0.1))),
        ("images", lambda: random_resized_crops(torch.zeros(1, 4, 4), 2, (0.5, 1.0))),
    ],
)
def test_bad_input_is_refused_by_name(match, call):
    with pytest.raises(ValueError, match=match):
        call()
