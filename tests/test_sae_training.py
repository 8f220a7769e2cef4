"""Training side by side: the same numbers as sae_lens.SAETrainer, and gradients that can be checked
by hand.
"""

import pytest
import torch
from tiny_models import sparse_tokens

from sandbagging import saes
from sandbagging.errors import UserError
from sandbagging.saes import gradients, training
from sandbagging.saes.gradients import Dense, Sparse
from sandbagging.saes.stack import Stack

D_IN, D_SAE, BATCH = 16, 64, 32
PEERS = {"topk": "TopKTrainingSAE", "jumprelu": "JumpReLUTrainingSAE", "gated": "GatedTrainingSAE"}
SETTINGS = {
    "topk": {"k": 4},
    "jumprelu": {
        "jumprelu_bandwidth": 0.5,
        "jumprelu_init_threshold": 0.3,
        "l0_coefficient": 0.5,
        "l0_warm_up_steps": 10,
    },
    "gated": {"l1_coefficient": 0.5, "l1_warm_up_steps": 10},
}


def sae_lens_sae(arch, seed=0, **changes):
    """A fresh sae-lens training SAE, with parameters away from the special values of its
    initialisation.
    """
    import sae_lens

    config = getattr(sae_lens, PEERS[arch] + "Config")(
        d_in=D_IN, d_sae=D_SAE, decoder_init_norm=1.0, **{**SETTINGS[arch], **changes}
    )
    torch.manual_seed(seed)
    sae = getattr(sae_lens, PEERS[arch])(config)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name.startswith(("b_", "r_mag")):
                parameter.add_(0.1 * torch.randn_like(parameter))
        sae.W_dec.mul_(torch.linspace(0.5, 1.5, D_SAE)[:, None])
    return sae


@pytest.fixture(scope="module")
def tokens():
    return sparse_tokens(640, 96, D_IN, scale=4, offset=1)


def by_sae_lens(sae, batches, lr=3e-3, dead_after=1000):
    """Train with sae-lens's own trainer; return its losses."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = SAETrainerConfig(
        total_training_samples=len(batches) * BATCH,
        train_batch_size_samples=BATCH,
        lr=lr,
        lr_end=lr,
        device="cpu",
        dead_feature_window=dead_after,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(config, sae, iter(batches))
    losses = []
    for batch in batches:
        losses.append(trainer.step(batch).loss.item())
        trainer.n_training_steps += 1
    return torch.tensor(losses)


def largest_difference(ours, theirs):
    theirs = theirs.state_dict()
    if "threshold" in theirs:
        # sae-lens does so at the beginning of a step, so its last update may lie below 0
        theirs["threshold"].clamp_(min=0)
    return max(
        float((value - theirs[name]).abs().max()) for name, value in ours.state_dict().items()
    )


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("arch", PEERS)
def test_every_step_equals_that_of_the_sae_lens_trainer(arch, share, tokens, monkeypatch):
    """Same initialisation, same batches, gradient clipping on: losses and weights agree to float32
    rounding over 40 steps.

    dead_after = 5 makes TopK's auxiliary loss work on most steps.
    """
    monkeypatch.setattr(gradients, "DENSE_ABOVE", share)
    batches = list(tokens.split(BATCH)) * 2
    theirs = sae_lens_sae(arch)
    stack = Stack([sae_lens_sae(arch)], lr=3e-3, dead_after=5, unit_norm=False)
    ours = torch.tensor([stack.step(batch).loss.item() for batch in batches])
    torch.testing.assert_close(
        ours, by_sae_lens(theirs, batches, dead_after=5), rtol=1e-5, atol=1e-5
    )
    # Adam divides by the root of the second moment, so rounding in a nearly zero gradient can move
    # a weight by some 1e-3 * lr.
    assert largest_difference(stack.saes()[0], theirs) < 1e-4
    assert arch != "topk" or (stack.since_fired > 5).any()


def test_rescaling_by_the_decoder_norm_changes_what_is_chosen_and_nothing_else(tokens):
    plain = sae_lens_sae("topk", rescale_acts_by_decoder_norm=False)
    batches = list(tokens.split(BATCH))
    stack = Stack(
        [sae_lens_sae("topk", rescale_acts_by_decoder_norm=False)], lr=3e-3, unit_norm=False
    )
    ours = torch.tensor([stack.step(batch).loss.item() for batch in batches])
    torch.testing.assert_close(ours, by_sae_lens(plain, batches), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", PEERS)
@pytest.mark.parametrize("unit_norm", [True, False])
def test_a_stack_equals_its_saes_trained_alone(arch, unit_norm, tokens):
    changes = [{"k": 2}, {"k": 4}, {"k": 7}] if arch == "topk" else [{}, {}, {}]
    make = lambda i: sae_lens_sae(arch, seed=i, **changes[i])  # noqa: E731
    together = Stack([make(i) for i in range(3)], lr=3e-3, dead_after=5, unit_norm=unit_norm)
    alone = [Stack([make(i)], lr=3e-3, dead_after=5, unit_norm=unit_norm) for i in range(3)]
    for batch in tokens.split(BATCH):
        losses = torch.stack([stack.step(batch).loss[0] for stack in alone])
        torch.testing.assert_close(together.step(batch).loss, losses, rtol=1e-5, atol=1e-5)
    for ours, stack in zip(together.saes(), alone, strict=True):
        assert largest_difference(ours, stack.saes()[0]) < 1e-4


def test_each_sae_of_a_stack_may_read_its_own_tokens(tokens):
    first, second = tokens[:BATCH], tokens[BATCH : 2 * BATCH]
    together = Stack([sae_lens_sae("topk"), sae_lens_sae("topk")])
    loss = together.step(torch.stack([first, second])).loss
    assert loss[0] == Stack([sae_lens_sae("topk")]).step(first).loss
    torch.testing.assert_close(loss[1:], Stack([sae_lens_sae("topk")]).step(second).loss)


@pytest.mark.parametrize("n_saes", [1, 3])
def test_sparse_products_equal_dense_ones(n_saes):
    generator = torch.Generator().manual_seed(1)
    active = (torch.rand(n_saes, 8, 20, generator=generator) < 0.2).float()
    active[:, 3] = 0.0  # a token without an active latent
    active[:, :, 5] = 0.0  # a latent that no token uses
    codes = torch.randn(n_saes, 8, 20, generator=generator) * active
    W_dec, errors = (
        torch.randn(n_saes, 20, 6, generator=generator),
        torch.randn(n_saes, 8, 6, generator=generator),
    )
    dense, sparse = Dense(active), Sparse(active)
    torch.testing.assert_close(sparse.decode(codes, W_dec), dense.decode(codes, W_dec))
    torch.testing.assert_close(sparse.along(errors, W_dec), dense.along(errors, W_dec))
    torch.testing.assert_close(sparse.outer(codes, errors), dense.outer(codes, errors))


def test_exactly_k_latents_are_kept_also_where_values_tie():
    values = torch.tensor(
        [[[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 5.0]], [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]]
    )
    kept = gradients._largest(values, [2, 3])
    assert kept.sum(dim=2).tolist() == [[2, 2], [3, 3]] and kept[0, 0, 0] == kept[0, 1, 3] == 1
    assert torch.equal(kept[1], torch.tensor([[0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]]))


def one_latent(kernel, l0, l1, pre=0.7, threshold=0.5, bandwidth=0.4):
    """A JumpReLU SAE of one latent on a one-dimensional input, all numbers chosen: encoder 1,
    decoder 2, no biases.
    """
    w = {
        "W_enc": torch.tensor([[[1.0]]]),
        "W_dec": torch.tensor([[[2.0]]]),
        "b_enc": torch.zeros(1, 1),
        "b_dec": torch.zeros(1, 1),
        "threshold": torch.tensor([[threshold]]),
    }
    settings = {"kernel": kernel, "bandwidth": bandwidth, "l0": l0, "l1": l1}
    done = gradients.jumprelu_pass(
        w, torch.tensor([[[pre]]]), settings, torch.zeros(1, 1, dtype=torch.bool)
    )
    return done.loss.item(), {name: value.item() for name, value in done.grad.items()}


def test_gaussian_threshold_gradient_is_the_closed_form_on_hand_set_numbers():
    """pre 0.7, threshold 0.5, width 0.4: u = 0.5, K = exp(-1/8) / sqrt(2 pi) = 0.352065. Code 0.7,
    reconstruction 1.4, error 0.7.
    """
    loss, grad = one_latent("gaussian", l0=0.0, l1=0.0)
    upstream = 2 * 0.7 * 2  # d|error|^2 / d code
    assert loss == pytest.approx(0.49)
    assert grad["threshold"] == pytest.approx(-(0.5 / 0.4) * 0.352065 * upstream, rel=1e-5)
    _, with_l0 = one_latent("gaussian", l0=3.0, l1=0.0)
    assert with_l0["threshold"] - grad["threshold"] == pytest.approx(-3 * 0.352065 / 0.4, rel=1e-5)
    _, with_l1 = one_latent("gaussian", l0=0.0, l1=0.1)
    assert with_l1["threshold"] == pytest.approx(
        -(0.5 / 0.4) * 0.352065 * (upstream + 0.1), rel=1e-5
    )
    assert with_l1["W_enc"] - grad["W_enc"] == pytest.approx(0.1 * 0.7, rel=1e-5)


def test_gaussian_l0_gradient_is_the_slope_of_the_smoothed_count():
    """The expected count under Gaussian noise of the kernel's width is Phi((pre - threshold) /
    width): finite differences agree.
    """

    def smoothed(threshold: float) -> float:
        distance = torch.tensor((0.7 - threshold) / 0.4, dtype=torch.float64)
        return torch.special.ndtr(distance).item()

    slope = (smoothed(0.5 + 1e-5) - smoothed(0.5 - 1e-5)) / 2e-5
    with_l0, without = (one_latent("gaussian", l0, 0.0)[1]["threshold"] for l0 in (1.0, 0.0))
    assert with_l0 - without == pytest.approx(slope, rel=1e-4)


def test_rectangle_reaches_half_a_width_and_the_gaussian_further():
    """At pre 0.71 a width of 0.4 around 0.5 is just left."""
    assert one_latent("rectangle", 1.0, 0.0, pre=0.69)[1]["threshold"] != 0
    assert one_latent("rectangle", 1.0, 0.0, pre=0.71)[1]["threshold"] == 0
    assert one_latent("gaussian", 1.0, 0.0, pre=0.71)[1]["threshold"] != 0


def test_thresholds_learn_and_one_stuck_at_zero_stays_there(tokens):
    """The card's pre-fix failure: at threshold 0 the gradient of the activation term has the factor
    0, so nothing moves it.
    """

    def thresholds(start, lowest):
        sae = sae_lens_sae(
            "jumprelu", jumprelu_init_threshold=start, l0_coefficient=0.0, l0_warm_up_steps=0
        )
        stack = Stack(
            [sae], lr=3e-3, kernel="gaussian", l0=0.0, l1=1e-3 * D_IN, lowest_threshold=lowest
        )
        for batch in tokens.split(BATCH):
            stack.step(batch)
        return stack.w["threshold"]

    assert (thresholds(0.3, 1e-3) - 0.3).abs().min() > 1e-4
    assert (thresholds(0.002, 1e-3) > 0).all()
    assert not thresholds(0.0, 0.0).any()


def test_decoder_rows_stay_at_unit_norm_and_the_gradient_is_perpendicular_to_them(tokens):
    stack = Stack([sae_lens_sae("topk")], lr=3e-3)
    for batch in tokens.split(BATCH)[:3]:
        stack.step(batch)
    torch.testing.assert_close(stack.w["W_dec"].norm(dim=2), torch.ones(1, D_SAE))


def test_saes_that_differ_in_more_than_k_are_refused():
    with pytest.raises(UserError, match="only k may differ"):
        Stack([sae_lens_sae("gated"), sae_lens_sae("gated", l1_coefficient=2.0)])
    with pytest.raises(UserError, match="no setting kernel"):
        Stack([sae_lens_sae("gated")], kernel="gaussian")
    with pytest.raises(UserError, match="step penalty"):
        Stack([sae_lens_sae("jumprelu", jumprelu_sparsity_loss_mode="tanh")])


def test_the_saes_that_a_stack_was_made_of_are_changed_only_by_saes(tokens):
    sae = sae_lens_sae("topk")
    before = sae.W_enc.detach().clone()
    stack = Stack([sae])
    stack.step(tokens[:BATCH])
    assert torch.equal(sae.W_enc, before)
    assert not torch.equal(stack.saes()[0].W_enc, before)


# Recipes to SAEs


def recipe(arch="topk", **settings):
    k = 4 if arch == "topk" else None
    fields = {
        "model": "tiny",
        "architecture": arch,
        "layer": 3,
        "condition": "mixed",
        "d_in": D_IN,
        "k": k,
    }
    return saes.Recipe(**{**fields, "steps": 30, "batch": BATCH, "lr": 3e-3, **settings})


def test_the_cards_loss_is_the_default_of_jumprelu_and_its_thresholds_learn(tokens):
    made = recipe("jumprelu", steps=60, lowest_threshold=0.01)
    sae, history = saes.train(made, tokens, history_every=20)
    assert (made.kernel, made.l1, made.unit_norm_decoder) == ("gaussian", 1e-3, True)
    moved = (sae.threshold - made.init_threshold).abs()
    assert (moved > 1e-3).float().mean() > 0.9 and sae.threshold.min() >= 0.01
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-5)
    assert history["fvu"].iloc[-1] < history["fvu"].iloc[0]


def test_gaussian_step_equals_autograd_on_the_written_loss(tokens):
    """A second route: the same loss as a graph, the kernel as a custom gradient."""

    class Jump(torch.autograd.Function):
        @staticmethod
        def forward(ctx, pre, threshold):
            ctx.save_for_backward(pre, threshold)
            return pre * (pre > threshold)

        @staticmethod
        def backward(ctx, upstream):
            pre, threshold = ctx.saved_tensors
            kernel = torch.distributions.Normal(0.0, 1.0).log_prob((pre - threshold) / 0.5).exp()
            return upstream * (pre > threshold), -(threshold / 0.5 * kernel * upstream).sum(dim=0)

    made, x = recipe("jumprelu", unit_norm_decoder=False, warm_up=0.0), tokens[:BATCH]
    sae = saes.new_sae(made, 30, tokens.mean(dim=0))
    codes = Jump.apply((x - sae.b_dec) @ sae.W_enc + sae.b_enc, sae.threshold)
    loss = (codes @ sae.W_dec + sae.b_dec - x).square().sum(
        dim=1
    ).mean() + made.l1 * D_IN * codes.sum(dim=1).mean()
    loss.backward()
    stack = training.new_stack([made], 30, tokens.mean(dim=0))
    done = gradients.jumprelu_pass(stack.w, x[None], stack.settings, None)
    assert done.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in sae.named_parameters():
        ours = done.grad[name][0].T if name == "W_enc" else done.grad[name][0]
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", saes.ARCHITECTURES)
def test_killed_training_goes_on_to_the_same_weights(arch, tokens, tmp_path, monkeypatch):
    whole = saes.train(recipe(arch), tokens)[0]
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)

    def dies(done, total):
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saes.train(
            recipe(arch),
            tokens,
            checkpoint=tmp_path / "c.safetensors",
            progress=dies,
            history_every=5,
        )
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 1e9)
    stack_steps = []
    counted = Stack.step
    monkeypatch.setattr(
        Stack, "step", lambda self, batch: stack_steps.append(1) or counted(self, batch)
    )
    resumed, history = saes.train(
        recipe(arch), tokens, checkpoint=tmp_path / "c.safetensors", history_every=5
    )
    assert 0 < len(stack_steps) < 30
    assert history["step"].tolist() == [0, 5, 10, 15, 20, 25, 29]
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_checkpoint_of_other_hyperparameters_is_refused_with_both_values(
    tokens, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "c.safetensors"
    saes.train(recipe(steps=3), tokens, checkpoint=path)
    with pytest.raises(UserError, match="lr = 0.003 there, 0.001 now"):
        saes.train(recipe(steps=3, lr=1e-3), tokens, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        saes.train(recipe(steps=3), tokens, checkpoint=path)


def test_recipes_train_together_if_they_differ_in_k_alone():
    made = [recipe(k=2), recipe("jumprelu"), recipe(k=7), recipe(k=2, condition="genuine_only")]
    assert training.groups(made) == [[made[0], made[2]], [made[1]], [made[3]]]
