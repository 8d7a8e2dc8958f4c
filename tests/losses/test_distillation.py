"""What a student learns by, against loops over single numbers."""

import math

import pytest
import torch

from losses import code_distillation_loss, float_distillation_loss


def units(rows: int, columns: int, *, seed: int) -> torch.Tensor:
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=1).requires_grad_()


def cosine(ours: list[float], theirs: list[float]) -> float:
    product = sum(a * b for a, b in zip(ours, theirs, strict=True))
    return product / math.sqrt(sum(a * a for a in ours) * sum(b * b for b in theirs))


@pytest.mark.parametrize(("loss", "of_teacher"), [
    (float_distillation_loss, lambda rows: rows),
    (code_distillation_loss, lambda rows: torch.where(rows >= 0, 1.0, -1.0).double())], ids=["float", "code"])
def test_mean_of_one_minus_the_cosine(loss, of_teacher):
    student, teacher = units(5, 16, seed=0), of_teacher(units(5, 16, seed=1))
    found = loss(student, teacher)
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    assert found.item() == pytest.approx(sum(1 - cosine(ours, theirs) for ours, theirs in pairs) / 5, rel=1e-12)
    assert loss(torch.nn.functional.normalize(teacher, dim=1), teacher).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", [float_distillation_loss, code_distillation_loss])
def test_the_student_learns_and_the_teacher_does_not(loss):
    student, teacher = units(5, 16, seed=0), units(5, 16, seed=1)
    loss(student, teacher).backward()
    assert teacher.grad is None
    # Down the gradient of each student's row lies its own teacher's row.
    assert torch.allclose(torch.nn.functional.normalize(student.grad, dim=1), -teacher, atol=1e-12)
