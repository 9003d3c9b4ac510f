from __future__ import annotations

import pytest
import torch

from holdfast.core.grassmann import GrassmannSGD, check_orthonormal, horizontal, random_frame, retract
from holdfast.core.random import generator


def frame(*shape: int, seed: int = 100):
    return random_frame(*shape, generator=generator(seed), dtype=torch.float64)


def test_retraction_keeps_the_span_and_is_the_identity_on_orthonormal_columns():
    a = torch.randn(3, 7, 4, generator=generator(100), dtype=torch.float64)
    U = retract(a)
    torch.testing.assert_close(U.mT @ U, torch.eye(4, dtype=a.dtype).expand(3, 4, 4))
    torch.testing.assert_close(U @ (U.mT @ a), a)
    torch.testing.assert_close(retract(U), U)


def test_the_horizontal_part_is_orthogonal_to_the_frame_and_a_projection():
    U, G = frame(9, 3), torch.randn(9, 3, generator=generator(101), dtype=torch.float64)
    H = horizontal(U, G)
    assert float((U.mT @ H).abs().max()) < 1e-12
    torch.testing.assert_close(horizontal(U, H), H)


def test_a_rotation_of_the_basis_rotates_the_step_and_leaves_the_span():
    A = torch.randn(8, 8, generator=generator(102), dtype=torch.float64)
    A, R = A + A.mT, frame(3, 3, seed=103)
    first, second = frame(8, 3).clone(), frame(8, 3) @ R
    spans = []
    for start in (first, second):
        U = torch.nn.Parameter(start)
        step = GrassmannSGD([U], lr=0.05, momentum=0.9)
        for _ in range(10):
            step.zero_grad()
            (U * (A @ U)).sum().backward()
            step.step()
        spans.append((U @ U.mT).detach())
    torch.testing.assert_close(spans[0], spans[1])


def test_descent_ends_in_the_eigenvectors_and_stays_orthonormal():
    A = torch.diag(torch.arange(10.0, dtype=torch.float64))
    U = torch.nn.Parameter(frame(2, 10, 3))  # two frames at once
    step = GrassmannSGD([U], lr=0.02, momentum=0.9)
    for _ in range(400):
        step.zero_grad()
        (-(U * (A @ U)).sum()).backward()
        step.step()
        assert float((U.detach().mT @ U.detach() - torch.eye(3)).abs().max()) < 1e-5
    top = torch.diag((torch.arange(10) >= 7).double())
    torch.testing.assert_close((U @ U.mT).detach(), top.expand(2, 10, 10), atol=1e-6, rtol=0)


def test_frames_that_are_not_are_refused():
    with pytest.raises(ValueError, match=r"orthonormal columns within 0\.001, but an entry of U\^T U is off by 3"):
        check_orthonormal("U", 2 * torch.eye(3)[:, :2])
    with pytest.raises(ValueError, match="shape \\(n, d\\) with 1 <= d <= n, got \\(2, 3\\)"):
        check_orthonormal("U", torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must be finite"):
        check_orthonormal("U", torch.full((3, 1), float("nan")))
    with pytest.raises(ValueError, match="parameters must be frames"):
        GrassmannSGD([torch.nn.Parameter(torch.zeros(2, 3))])
    with pytest.raises(ValueError, match="momentum must be in"):
        GrassmannSGD([torch.nn.Parameter(torch.zeros(3, 2))], momentum=1.0)
    with pytest.raises(ValueError, match="a frame needs a shape"):
        random_frame(2, 3)
