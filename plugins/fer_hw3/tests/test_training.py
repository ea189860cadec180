"""Training: batches, augmentation, folded normalization, recipes, and resuming."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import explainkit as ek
from explainkit.errors import DatasetError, ModelError, StorageError
from explainkit.isolation import preserve_process
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.models import build_cnn, build_dnn
from explainkit_fer_hw3.training import checkpoint, run
from explainkit_fer_hw3.training.augment import CELL, augmented, mixed
from explainkit_fer_hw3.training.batches import Batches
from explainkit_fer_hw3.training.batchnorm import KERNEL_NORM, folded, frozen_statistics, normalized
from explainkit_fer_hw3.training.recipe import (
    CNN_RECIPE,
    DNN_RECIPE,
    EPOCHS,
    STUDY,
    Recipe,
    recipe_for,
)
from explainkit_fer_hw3.training.run import Training

PLAIN = Recipe(batch=16, synthetic=0, augment=0.0, cutout=0.0, mix=0.0, repeat=())


@pytest.fixture(scope="module")
def faces():
    return load_synthetic(split="train", count=49)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_chain():
    """Two convolutions and a pooling, as in the study's network, with few channels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 23 * 23, 7),
    )  # fmt: skip


class TestNormalization:
    def test_it_preserves_the_function_on_the_measured_images(self, faces):
        model = small_chain().eval()
        with torch.inference_mode():
            expected = model(faces.images)
            found = normalized(model, faces.images)(faces.images)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_it_preserves_the_function_in_train_mode(self, faces):
        model = small_chain()
        model[5] = nn.Identity()
        with torch.inference_mode():
            found = normalized(model.train(), faces.images)(faces.images)
            torch.testing.assert_close(found, model(faces.images), rtol=1e-4, atol=1e-4)

    def test_every_kernel_gets_the_same_norm(self, faces):
        for layer in normalized(small_chain(), faces.images):
            if isinstance(layer, nn.Conv2d):
                norms = layer.weight.flatten(1).norm(dim=1)
                torch.testing.assert_close(norms, torch.full_like(norms, KERNEL_NORM))
                assert layer.bias is None

    def test_the_callers_network_is_not_modified(self, faces):
        model = small_chain().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        network = normalized(model, faces.images)
        assert network.training
        assert all(module.training for module in model.modules())
        for parameter in network.parameters():
            parameter.data.add_(1)
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)

    @pytest.mark.parametrize("build", [small_chain, build_cnn])
    def test_folding_is_the_normalized_network(self, build, faces):
        network = normalized(build())
        with torch.no_grad():  # statistics and gains as after training, negative ones included
            for layer in network:
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.normal_(0, 0.3, generator=generator(1))
                    layer.running_var.uniform_(0.2, 3, generator=generator(2))
                    layer.weight.normal_(1, 0.5, generator=generator(3))
                    layer.bias.normal_(0, 0.3, generator=generator(4))
            network.eval()
            images = faces.images[:8]
            plain = folded(network)
            torch.testing.assert_close(plain(images), network(images), rtol=1e-5, atol=1e-5)
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain)
        assert plain.state_dict().keys() == build().state_dict().keys()
        for name, value in build().state_dict().items():
            assert plain.state_dict()[name].shape == value.shape

    def test_folding_undoes_normalizing(self, faces):
        model = small_chain()
        found = folded(normalized(model, faces.images)).state_dict()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)

    def test_frozen_statistics_are_unchanged_and_batch_statistics_used(self, faces):
        network = normalized(small_chain()).train()
        network[-2] = network[-3] = nn.Identity()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with torch.no_grad():
            with frozen_statistics(network):
                found = network[:6](faces.images)
            after = network.state_dict()
            assert all(torch.equal(before[name], after[name]) for name in before)
            assert torch.equal(found, network[:6](faces.images))
        assert not torch.equal(before["1.running_mean"], network.state_dict()["1.running_mean"])


class TestAugmentation:
    def test_strength_zero_is_the_identity(self, faces):
        images = faces.images
        assert torch.equal(augmented(images, torch.zeros(49), 0.0, generator()), images)

    def test_images_of_strength_zero_among_others_are_preserved(self, faces):
        images = faces.images
        strength = torch.ones(49)
        strength[::2] = 0
        found = augmented(images, strength, 0.0, generator())
        torch.testing.assert_close(found[::2], images[::2], rtol=1e-4, atol=1e-4)
        changed = (found[1::2] - images[1::2]).abs().mean((1, 2, 3))
        assert (changed > 0.1).all()

    @settings(max_examples=20, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 5), st.integers(9, 50), st.integers(9, 50)),
        strength=st.floats(0, 1), cutout=st.sampled_from([0.0, 0.5, 1.0]),
        seed=st.integers(0, 2**63 - 1),
    )  # fmt: skip
    def test_shape_and_determinism(self, size, strength, cutout, seed):
        n, height, width = size
        images = torch.randn(n, 1, height, width, generator=generator(7))
        before = images.clone()
        one, two = (
            augmented(images, torch.full((n,), strength), cutout, generator(seed)) for _ in range(2)
        )
        assert one.shape == images.shape
        assert torch.isfinite(one).all()
        assert torch.equal(one, two)
        assert torch.equal(images, before)

    def test_it_leaves_the_global_generator_alone(self, faces):
        state = torch.get_rng_state()
        augmented(faces.images, torch.ones(49), 1.0, generator())
        assert torch.equal(state, torch.get_rng_state())

    def test_cells_are_whole_squares_of_exactly_zero(self):
        images = torch.full((200, 1, 48, 48), 3.0)
        found = augmented(images, torch.zeros(200), 0.4, generator())
        assert set(found.unique().tolist()) == {0.0, 3.0}
        lost = (found == 0)[:, 0]
        hit = lost.flatten(1).any(1)
        assert 0.3 * 200 < hit.sum() < 0.5 * 200
        assert lost.flatten(1).float().mean(1).max() < 0.5
        assert 0.1 < lost[hit].float().mean() < 0.2  # half of "up to 30 %", where there is any
        # cells lie on one lattice: their edges are at the same rows, 8 apart
        rows = (lost[:, 1:] != lost[:, :-1]).any((0, 2)).nonzero().flatten() + 1
        assert len({int(row) % CELL for row in rows}) == 1

    def test_half_of_the_images_are_mirrored(self):
        ramp = torch.linspace(2, -2, 48).expand(300, 1, 48, 48)
        found = augmented(ramp, torch.full((300,), 0.3), 0.0, generator())
        mirrored = found[..., :24].mean((1, 2, 3)) < found[..., 24:].mean((1, 2, 3))
        assert 0.4 < mirrored.float().mean() < 0.6


class TestMixing:
    def test_images_and_targets_are_mixed_in_the_same_shares(self):
        """Each image's only pixel is its index, so the result shows the partner and the share."""
        n = 500
        images = torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1)
        targets = torch.eye(n, dtype=torch.float64)
        found, mix = mixed(images, targets, 0.2, generator())
        torch.testing.assert_close(mix @ images.flatten(), found.flatten())
        torch.testing.assert_close(mix.sum(1), torch.ones(n, dtype=torch.float64))
        own, other = mix.diagonal(), mix.flip(1).diagonal()
        torch.testing.assert_close(own + other, torch.ones(n, dtype=torch.float64))
        assert (own >= 0.5).all()

    @pytest.mark.parametrize("shape", [0.2, 1.0, 5.0])
    def test_the_shares_are_beta_distributed(self, shape):
        """E λ(1 − λ) = a / (4a + 2), whichever share is the image's own."""
        n = 20_000
        index = torch.arange(n, dtype=torch.float64)
        _, mix = mixed(index.view(n, 1, 1, 1), index[:, None], shape, generator())
        own = (mix[:, 0] - index.flip(0)) / (index - index.flip(0))
        product = own * (1 - own)
        error = float(product.std()) / n**0.5
        assert abs(float(product.mean()) - shape / (4 * shape + 2)) < 4 * error

    def test_only_photographs_are_mixed(self, faces):
        recipe = dataclasses.replace(PLAIN, synthetic=7)
        images, targets = Batches(faces, dataclasses.replace(recipe, mix=0.5), 0)[1]
        plain, wanted = Batches(faces, recipe, 0)[1]
        assert torch.equal(images[PLAIN.batch :], plain[PLAIN.batch :])
        assert torch.equal(targets[PLAIN.batch :], wanted[PLAIN.batch :])
        assert not torch.equal(images[: PLAIN.batch], plain[: PLAIN.batch])
        assert not torch.equal(targets[: PLAIN.batch], wanted[: PLAIN.batch])
        torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))


class TestBatches:
    @pytest.mark.parametrize("recipe", [CNN_RECIPE, DNN_RECIPE, STUDY])
    def test_a_pure_function_of_seed_and_step(self, recipe, faces):
        recipe = dataclasses.replace(recipe, batch=16)
        one, two = Batches(faces, recipe, 3), Batches(faces, recipe, 3)
        for _ in range(3):
            one[0]
        torch.manual_seed(99)
        for step in (4, 0, 11):
            images, targets = one[step]
            again, same = two[step]
            assert torch.equal(images, again)
            assert torch.equal(targets, same)
            assert images.shape == (16 + recipe.synthetic, 1, 48, 48)
            assert images.dtype == torch.float32
        assert not torch.equal(one[0][0], one[1][0])
        assert not torch.equal(one[0][0], Batches(faces, recipe, 4)[0][0])

    @settings(max_examples=30, deadline=None)
    @given(batch=st.integers(1, 60), epoch=st.integers(0, 5), times=st.integers(1, 4))
    def test_an_epoch_shows_each_image_as_often_as_the_recipe_says(self, batch, epoch, times):
        faces = load_synthetic(split="train", count=21)
        recipe = dataclasses.replace(PLAIN, batch=batch, repeat=(("disgust", times),))
        batches = Batches(faces, recipe, 0)
        steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        rows = torch.cat([batches.rows(step) for step in steps])
        shown = 18 + 3 * times
        assert batches.per_epoch == -(-shown // batch)
        counts = torch.bincount(rows[:shown], minlength=21)
        assert torch.equal(counts, torch.where(faces.labels == 1, times, 1))

    def test_plain_batches_are_unmodified_images(self, faces):
        batches = Batches(faces, PLAIN, 0)
        images, targets = batches[2]
        rows = batches.rows(2)
        assert torch.equal(images, faces.images[rows])
        assert torch.equal(targets, torch.eye(7)[faces.labels[rows]])

    def test_teacher_probabilities_are_mixed_into_the_targets_of_photographs(self, faces):
        recipe = dataclasses.replace(PLAIN, synthetic=7, self_distillation=0.25)
        taught = torch.rand(len(faces), 7, generator=generator()).softmax(1)
        batches = Batches(faces, recipe, 0, taught)
        images, targets = batches[1]
        plain, labels = Batches(faces, recipe, 0)[1]
        rows = batches.rows(1)
        assert torch.equal(images, plain)
        own = 0.75 * labels[: len(rows)] + 0.25 * taught[rows]
        torch.testing.assert_close(targets[: len(rows)], own)
        assert torch.equal(targets[len(rows) :], labels[len(rows) :])

    def test_epochs_have_different_orders(self, faces):
        batches = Batches(faces, PLAIN, 0)
        assert not torch.equal(batches.rows(0), batches.rows(batches.per_epoch))

    def test_synthetic_faces_are_new_in_every_step_and_from_the_training_population(self, faces):
        batches = Batches(faces, dataclasses.replace(PLAIN, synthetic=7), 0)
        train = load_synthetic(split="train", count=14)
        for step in range(2):
            images, targets = batches[step]
            assert torch.equal(images[16:], train.images[7 * step : 7 * step + 7])
            assert torch.equal(targets[16:].argmax(1), train.labels[7 * step : 7 * step + 7])

    def test_images_without_labels_are_refused(self, faces):
        labels = faces.labels.clone()
        labels[3] = -1
        with pytest.raises(DatasetError, match="a label for each of 49 images, but 1 have none"):
            Batches(dataclasses.replace(faces, labels=labels), PLAIN, 0)


class TestRecipes:
    def test_the_learning_rate_warms_up_stays_and_falls_to_zero(self):
        recipe = Recipe(lr=0.2, warmup=20, decay=0.25)
        rates = [recipe.lr_at(step, 400) for step in range(401)]
        assert rates[:20] == pytest.approx([0.2 * (i + 1) / 20 for i in range(20)])
        assert rates[20:300] == [0.2] * 280
        assert rates[300:] == pytest.approx([0.2 * (400 - i) / 100 for i in range(300, 401)])
        assert rates[400] == 0

    def test_the_studys_is_plain_adam(self, faces):
        assert recipe_for("cnn", "study") == recipe_for("dnn", "study") == STUDY
        assert EPOCHS["study"] == 200
        assert {STUDY.lr_at(step, 1000) for step in (0, 500, 999)} == {0.001}
        assert not STUDY.batch_norm
        training = Training("dnn", faces, STUDY, epochs=1)
        assert type(training.optimizer) is torch.optim.Adam
        assert all(group["betas"] == (0.9, 0.999) for group in training.optimizer.param_groups)
        assert all(group["weight_decay"] == 0 for group in training.optimizer.param_groups)
        images, _ = Batches(faces, STUDY, 0)[0]
        rows = Batches(faces, STUDY, 0).rows(0)
        assert torch.equal(images, faces.images[rows])

    def test_one_step_of_the_studys_is_one_step_of_adam(self, faces):
        """Closed form: after the first step every weight has moved by the learning rate, up to ε."""
        recipe = dataclasses.replace(STUDY, batch=16)
        training = Training("dnn", faces, recipe, epochs=1, seed=2)
        training.dtype = None
        before = {name: p.detach().clone() for name, p in training.network.named_parameters()}
        training.advance()
        for name, parameter in training.network.named_parameters():
            gradient = parameter.grad
            expected = before[name] - 0.001 * gradient / (gradient.abs() + 1e-8)
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)
            assert torch.equal(training.average[name], parameter)


TINY = {
    "cnn": dataclasses.replace(CNN_RECIPE, batch=4, synthetic=2, warmup=2, first_block_every=2),
    "dnn": dataclasses.replace(DNN_RECIPE, batch=16, synthetic=3, warmup=2),
    "study": dataclasses.replace(STUDY, batch=16),
}


def made(kind, faces, **options):
    few = faces.subset(range(10)) if kind == "cnn" else faces
    return Training("cnn" if kind == "cnn" else "dnn", few, TINY[kind], **{"epochs": 1, **options})


def state(training, folder):
    training.save(folder)
    tensors, facts = checkpoint.load(folder / checkpoint.FILE)
    del facts["seconds"]
    return tensors, facts


class TestTraining:
    @pytest.mark.parametrize("kind", ["cnn", "dnn", "study"])
    def test_resuming_is_bit_identical(self, kind, faces, tmp_path):
        whole = made(kind, faces, seed=5)
        whole.advance()
        whole.save(tmp_path)
        rest = [whole.advance(), whole.advance()]
        resumed = made(kind, faces, seed=5)
        resumed.resume(tmp_path)
        assert resumed.step == 1
        assert [resumed.advance(), resumed.advance()] == rest
        tensors, facts = state(whole, tmp_path)
        others, same = state(resumed, tmp_path)
        assert facts == same
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[name], others[name]) for name in tensors)

    def test_self_distillation(self, faces, tmp_path, monkeypatch):
        """Targets are the initial network's, averaged over mirror images; a checkpoint has them."""
        monkeypatch.setattr(run, "_fast_dtype", lambda _: None)  # single precision
        recipe = dataclasses.replace(TINY["dnn"], self_distillation=0.5)
        with preserve_process(3):
            start = build_dnn().eval()
        whole = Training("dnn", faces, recipe, epochs=1, start=start)
        with torch.no_grad():
            views = [start(view).softmax(1) for view in (faces.images, faces.images.flip(3))]
        torch.testing.assert_close(whole.batches.taught, (views[0] + views[1]) / 2)
        whole.advance()
        whole.save(tmp_path)
        resumed = Training("dnn", faces, recipe, epochs=1)
        resumed.resume(tmp_path)
        assert resumed.advance() == whole.advance()
        tensors, _ = state(whole, tmp_path)
        others, _ = state(resumed, tmp_path)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[name], others[name]) for name in tensors)

    def test_saved_weights_are_interpolated_with_the_initial_ones(self, faces, tmp_path):
        """Compared with a run without interpolation; after resuming, too."""
        few = faces.subset(range(10))
        with preserve_process(3):
            start = build_cnn().eval()
        plain = dataclasses.replace(TINY["cnn"], weight_interpolation=0.0, first_block_every=0)
        recipes = {
            share: dataclasses.replace(plain, weight_interpolation=share) for share in (0.0, 0.25)
        }
        runs = {
            share: Training("cnn", few, recipe, epochs=1, start=start)
            for share, recipe in recipes.items()
        }
        for training in runs.values():
            training.advance()
        moved, found = (run.export().state_dict() for run in runs.values())
        for name, value in start.state_dict().items():
            torch.testing.assert_close(found[name], torch.lerp(moved[name], value, 0.25))
        assert not torch.allclose(moved["14.weight"], start.state_dict()["14.weight"], atol=1e-6)
        runs[0.25].save(tmp_path)
        resumed = Training("cnn", few, runs[0.25].recipe, epochs=1)
        resumed.resume(tmp_path)
        for name, value in resumed.export().state_dict().items():
            assert torch.equal(value, found[name])

    def test_a_frozen_first_block_never_changes(self, faces):
        recipe = dataclasses.replace(TINY["cnn"], first_block_every=0)
        training = Training("cnn", faces.subset(range(10)), recipe, epochs=1)
        before = {name: p.detach().clone() for name, p in training.network.named_parameters()}
        training.advance()
        still = {n for n, p in training.network.named_parameters() if torch.equal(p, before[n])}
        block = run._first_block(training.network)
        assert still == {n for n in before if int(n.split(".")[0]) < block}

    @pytest.mark.parametrize(("model", "count"), [("cnn", 4_845_063), ("dnn", 4_991_495)])
    def test_saved_weights_fit_the_studys_network(self, model, count, faces, tmp_path):
        training = made(model, faces)
        training.advance()
        training.save_weights(tmp_path / "mine.safetensors")
        loaded = ek.load_model(str(tmp_path / "mine.safetensors"))
        assert sum(p.numel() for p in loaded.parameters()) == count
        assert loaded.explainkit_name == f"fer_hw3/{model}"
        with torch.inference_mode():
            expected = training.export()(faces.images[:4])
            torch.testing.assert_close(loaded(faces.images[:4]), expected)
            training.network.load_state_dict(training.average)
            averaged = training.network.eval()(faces.images[:4])
        torch.testing.assert_close(expected, averaged, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", ["cnn", "dnn"])
    def test_starting_from_weights_preserves_the_function(self, kind, faces):
        start = ek.load_model(f"fer_hw3/{kind}")
        before = {name: value.clone() for name, value in start.state_dict().items()}
        training = made(kind, faces, start=start)
        with torch.inference_mode():
            images = faces.images[:6]
            torch.testing.assert_close(
                training.export()(images), start(images), rtol=1e-3, atol=1e-3
            )
        training.advance()
        assert all(torch.equal(before[name], v) for name, v in start.state_dict().items())

    def test_the_first_block_is_trained_in_every_second_step(self, faces):
        training = made("cnn", faces)
        first, last = training.network[0].weight, training.network[-1].weight
        for frozen in (False, True, False):
            before = first.detach().clone(), last.detach().clone()
            training.advance()
            assert torch.equal(first, before[0]) == frozen
            assert not torch.equal(last, before[1])

    def test_sharpness_aware_minimization(self, faces):
        """Closed form: the gradient of all images at ``w + ρ g / |g|``, g that of a quarter."""
        recipe = dataclasses.replace(
            TINY["dnn"], sam_rho=0.3, batch=16, smoothing=0.0, augment=0.0, cutout=0.0
        )
        training = Training("dnn", faces, recipe, epochs=1, seed=2)
        training.dtype = None
        training.network.eval()  # no dropout
        network, (images, targets) = build_dnn().eval(), training.batches[0]
        network.load_state_dict(training.network.state_dict())
        weights = list(network.parameters())

        def gradients(count):
            loss = nn.functional.cross_entropy(network(images[:count]), targets[:count])
            return torch.autograd.grad(loss, weights)

        few = gradients(4)
        norm = torch.cat([g.flatten() for g in few]).norm()
        with torch.no_grad():
            for weight, gradient in zip(weights, few, strict=True):
                weight += 0.3 * gradient / norm
        expected = gradients(None)
        before = [p.detach().clone() for p in training.network.parameters()]
        training.optimizer.step = lambda: None
        training.advance()
        for parameter, gradient in zip(training.network.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
        for parameter, value in zip(training.network.parameters(), before, strict=True):
            assert torch.equal(parameter, value)

    def test_one_image_a_step_is_enough_for_sharpness_aware_minimization(self, faces):
        recipe = dataclasses.replace(TINY["dnn"], batch=1, sam_rho=0.1)
        training = Training("dnn", faces, recipe, epochs=1)
        assert training.advance()["loss"] > 0

    def test_the_weights_are_averaged(self, faces):
        """Closed form for three steps: ``a ← k a + (1 − k) w`` with ``k = t / (t + 9)``."""
        training = made("dnn", faces, epochs=2)
        expected = training.network[1].weight.detach().clone()
        for step in (1, 2, 3):
            training.advance()
            decay = step / (step + 9)
            expected = decay * expected + (1 - decay) * training.network[1].weight.detach()
            torch.testing.assert_close(training.average["1.weight"], expected)

    def test_it_leaves_the_global_generator_alone(self, faces):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        training = made("dnn", faces)
        training.advance()
        training.close_epoch(faces)
        assert torch.equal(state, torch.get_rng_state())

    def test_dropout_depends_on_the_step_alone(self, faces):
        training = made("dnn", faces)
        assert any(isinstance(m, nn.Dropout) and m.training for m in training.network)
        other = made("dnn", faces)
        torch.manual_seed(123)
        assert training.advance() == other.advance()

    def test_an_epochs_row(self, faces):
        recipe = dataclasses.replace(PLAIN, batch_norm=False, smoothing=0.0)
        training = Training("dnn", faces, recipe, epochs=2)
        steps = []
        while not training.at_epoch_end:
            steps.append(training.advance())
        assert len(steps) == training.batches.per_epoch == 4
        assert training.running["loss"] == pytest.approx(sum(s["loss"] for s in steps) / 4)
        row = training.close_epoch(faces)
        assert not training.at_epoch_end
        assert (row["epoch"], row["step"]) == (1, 4)
        assert row["accuracy"] == pytest.approx(sum(s["accuracy"] for s in steps) / 4)
        with torch.inference_mode():
            logits = training.export()(faces.images)
        loss = nn.functional.cross_entropy(logits, faces.labels)
        assert row["validation_loss"] == pytest.approx(float(loss), rel=1e-5)
        correct = (logits.argmax(1) == faces.labels).double().mean()
        assert row["validation_accuracy"] == pytest.approx(float(correct))

    @pytest.mark.parametrize("lr", [1e10, 1e30])
    def test_divergence_is_an_error(self, lr, faces):
        recipe = dataclasses.replace(TINY["study"], lr=lr)
        training = Training("dnn", faces, recipe, epochs=9)
        training.advance()
        with pytest.raises(ModelError, match="expected a finite loss .* lower --lr"):
            training.advance()
        assert training.step == 1
        with pytest.raises(ModelError, match="expected a finite validation loss"):
            training.close_epoch(faces)

    def test_other_runs_are_refused(self, faces, tmp_path):
        training = made("dnn", faces, epochs=2)
        training.advance()
        training.save(tmp_path)
        others = {
            "seed 0, not 1": made("dnn", faces, seed=1),
            "recipe optimizer sgd, not adam; recipe lr 0.05, not 0.001": made("study", faces),
            "model dnn, not cnn": made("cnn", faces),
            r"\(images [0-9a-f]+, not [0-9a-f]+\): resume with": made(
                "dnn", faces.subset(range(48))
            ),
        }
        for message, other in others.items():
            with pytest.raises(StorageError, match=message):
                other.resume(tmp_path)
        longer = made("dnn", faces, epochs=3)
        longer.resume(tmp_path)
        assert longer.step == 1
        while training.step < training.batches.per_epoch + 1:
            training.advance()
        training.save(tmp_path)
        with pytest.raises(StorageError, match="at least 2 epochs.* got --epochs 1"):
            made("dnn", faces, epochs=1).resume(tmp_path)

    def test_damaged_checkpoints_are_refused(self, faces, tmp_path):
        training = made("study", faces)
        with pytest.raises(StorageError, match="expected a checkpoint at .* found none"):
            training.resume(tmp_path)
        training.save(tmp_path)
        path = tmp_path / checkpoint.FILE
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(StorageError, match="expected a checkpoint, got"):
            training.resume(tmp_path)
