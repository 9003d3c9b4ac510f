from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from holdfast.nn.growing import GrowingClassifier
from holdfast.nn.network import Network
from holdfast.nn.simplex import FixedSimplexClassifier
from holdfast.representation.compatibility import BCTLoss, FeatureDistillation, HOCLoss
from holdfast.representation.lifelong import LifelongTrainer
from holdfast.representation.rehearsal import RehearsalBuffer


def _tasks(n_tasks=3, each=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(n_tasks * each, 6, generator=g)
    tasks = []
    for t in range(n_tasks):
        y = t * each + torch.arange(40) % each
        tasks.append((centres[y] + 0.3 * torch.randn(40, 6, generator=g), y))
    return tasks


def _simplex(k=16, seed=0, offset="end"):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, k - 1, bias=False))
    return Network(encoder, FixedSimplexClassifier(k - 1, k, project=False, offset=offset))


def _growing(seed=0):
    torch.manual_seed(seed)
    return Network(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 8)), GrowingClassifier(8))


def _trainer(network, compatibility=None, **options):
    base = {"memory": RehearsalBuffer(5), "epochs": 8, "batch_size": 16, "lr": 0.05}
    return LifelongTrainer(network, compatibility=compatibility, **(base | options))


def _accuracy(model, tasks):
    x, y = (torch.cat(parts) for parts in zip(*tasks))
    return float((model(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize(
    ("network", "compatibility"),
    [
        (_simplex, HOCLoss()),
        (_simplex, FeatureDistillation("cosine")),
        (_growing, None),
        (_growing, lambda old: BCTLoss(old.head)),
    ],
    ids=["hoc", "distillation", "rehearsal", "bct"],
)
def test_all_classes_are_known_after_all_tasks(network, compatibility):
    tasks = _tasks()
    result = _trainer(network(), compatibility, weight=0.5).run(tasks)
    assert [m.training for m in result.models] == [False] * 3
    assert _accuracy(result.models[-1], tasks) > 0.9
    assert [len(f) for f in result.embed(tasks[0][0])] == [40] * 3


def test_the_same_seed_gives_the_same_bits():
    runs = [_trainer(_simplex(), HOCLoss(), seed=5).run(_tasks()).models[-1].state_dict() for _ in range(2)]
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])


def test_models_are_copies_and_the_first_task_uses_cross_entropy_alone():
    result = _trainer(_simplex(), HOCLoss()).run(_tasks())
    weights = [m.encoder[0].weight for m in result.models]
    assert not torch.equal(weights[0], weights[1])
    assert "compatibility" not in result.history[0][0]
    assert "compatibility" in result.history[1][0]
    assert not any(p.requires_grad for m in result.models for p in m.parameters())


def test_compatibility_alone_keeps_the_features_where_they_were():
    # lambda = 0 leaves only the distance to the old model, which starts at zero and has no reason to move.
    options = {"weight": 0.0, "weight_decay": 0.0}
    result = _trainer(_simplex(), FeatureDistillation(), **options).run(_tasks())
    x = _tasks()[0][0]
    torch.testing.assert_close(result.embed(x)[2], result.embed(x)[0], atol=1e-4, rtol=1e-4)


def test_augmentation_reaches_old_and_new_model_alike():
    seen = []

    class Probe(FeatureDistillation):
        def forward(self, f_new, f_old, labels=None):
            seen.append((f_new.detach().clone(), f_old.clone()))
            return super().forward(f_new, f_old, labels)

    def noise(x, g):
        return x + torch.randn(x.shape, generator=g)

    options = {"augment": noise, "weight": 0.0, "weight_decay": 0.0, "epochs": 1}
    _trainer(_simplex(), Probe(), **options).run(_tasks(2))
    for new, old in seen:
        torch.testing.assert_close(new, old, atol=1e-4, rtol=1e-4)


def test_claims_follow_the_tasks_and_too_many_classes_are_refused():
    network = _simplex(k=6)
    _trainer(network, HOCLoss(), epochs=1).run(_tasks(3))
    assert [network.head.owner_of(r) for r in range(6)] == ["tasks"] * 6
    with pytest.raises(ValueError, match="claims class 5, but the table has 5 rows"):
        _trainer(_simplex(k=5), HOCLoss(), epochs=1).run(_tasks(3))


def _external(k=16, classes=4, seed=9):
    network = _simplex(k, seed, offset="start")
    _trainer(network, owner="pretraining").run(_tasks(1, classes, seed=seed))
    return network


def test_a_replacement_is_loaded_and_becomes_the_old_model(tmp_path):
    external = _external()
    path = tmp_path / "external.safetensors"
    save_file(external.state_dict(), path)
    # One step of vanishing length: the model after the task is the replacement itself.
    for replacement in (external, external.state_dict(), path):
        trainer = _trainer(_simplex(), HOCLoss(), epochs=1, lr=1e-9, min_lr=0.0)
        result = trainer.run(_tasks(), {1: replacement})
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(result.models[1].features(x), external.features(x), atol=1e-4, rtol=1e-4)
        assert trainer.network.head.owner_of(0) == "pretraining"
        assert trainer.network.head.owner_of(15) == "tasks"
        assert len(trainer.memory) == 30


def test_incompatible_replacements_are_refused():
    with pytest.raises(ValueError, match=r"network's table and the replacement's table .* of size 16 and 12"):
        _trainer(_simplex(), HOCLoss(), epochs=1).run(_tasks(), {1: _external(k=12)})
    with pytest.raises(ValueError, match="another kind of head"):
        _trainer(_simplex(), HOCLoss(), epochs=1).run(_tasks(), {1: _growing()})
    with pytest.raises(ValueError, match=r"no weights under 'encoder.'"):
        _trainer(_simplex(), HOCLoss(), epochs=1).run(_tasks(), {1: nn.Linear(2, 2)})
    same_end = _simplex()
    same_end.head.claim(2, "pretraining")
    with pytest.raises(ValueError, match=r"row 14 .* by 'tasks' in the network and by 'pretraining'"):
        _trainer(_simplex(), HOCLoss(), epochs=1).run(_tasks(), {1: same_end})
    with pytest.raises(ValueError, match="replacement before task 3, but tasks are 0 to 2"):
        _trainer(_simplex(), HOCLoss()).run(_tasks(), {3: _external()})


def test_a_growing_head_is_drawn_anew_after_a_replacement():
    network = _growing()
    trainer = _trainer(network, epochs=1, lr=1e-9, min_lr=0.0)
    before = trainer.run(_tasks(2), {1: _growing(4)}).models
    assert before[1].head.n_classes == 4
    assert not torch.allclose(before[1].head.weight[:2], before[0].head.weight, atol=1e-3)


def test_growing_heads_load_any_number_of_classes():
    a, b = GrowingClassifier(3, 5), GrowingClassifier(3)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.weight, b.weight)
    b.grow(7)
    assert torch.equal(a.weight, b.weight[:5])


def test_checkpoints_and_memory_are_kept(tmp_path):
    trainer = _trainer(_simplex(), HOCLoss(), epochs=1, folder=tmp_path / "run")
    result = trainer.run(_tasks(2))
    stored = load_file(tmp_path / "run" / "task-1.safetensors")
    torch.testing.assert_close(stored["encoder.0.weight"], result.models[1].encoder[0].weight)
    assert len(load_file(tmp_path / "run" / "memory.safetensors")["y"]) == 20


def test_herding_memory_works_in_a_run():
    trainer = _trainer(_simplex(), HOCLoss(), epochs=1, memory=RehearsalBuffer(3, "herding"))
    trainer.run(_tasks(2))
    assert torch.bincount(trainer.memory.y).tolist() == [3] * 4


def test_bad_options_are_named():
    with pytest.raises(ValueError, match=r"weight must be in \[0, 1\], got 1.5"):
        _trainer(_simplex(), HOCLoss(), weight=1.5)
    with pytest.raises(ValueError, match="lengths differ: x has 3, y has 2"):
        _trainer(_simplex(), HOCLoss()).run([(torch.zeros(3, 6), torch.tensor([0, 1]))])
