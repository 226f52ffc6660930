"""The prior of codes: causal, the same with a cache, tied to its tokeniser, and what it draws has the right shape."""

import pytest
import torch

from zoo import hub
from zoo.data.images import ImageData
from zoo.families.vq.lit import LitPrior
from zoo.families.vq.prior import CodePrior
from zoo.nn.frozen import fingerprint

TOKENIZER = {"image_size": 28, "channels": 1, "width": 16, "res_blocks": 1, "res_width": 8, "codebook_size": 24}


def prior(**args) -> CodePrior:
    torch.manual_seed(0)
    small = {"codebook_size": 24, "dim": 32, "depth": 2, "heads": 2, "label_drop": 0.0}
    return hub.build("vqprior_tiny", small | args).eval()


@pytest.fixture
def tokenizer(tmp_path):
    torch.manual_seed(0)
    model = hub.create("vqvae_conv_small", **TOKENIZER)
    model.quantizer.codebook.normal_()
    return str(hub.save(model, tmp_path / "tokenizer"))


def codes(count=3, seed=0):
    return torch.randint(24, (count, 7, 7), generator=torch.Generator().manual_seed(seed))


def test_a_code_is_predicted_from_those_before_it_and_the_class():
    model, x, y = prior(), codes(), torch.tensor([0, 4, 9])
    logits = model(x, y).logits
    for place in (0, 20, 48):
        changed = x.flatten(1).clone()
        changed[:, place] = (changed[:, place] + 1) % 24
        moved = (model(changed.reshape(x.shape), y).logits - logits).abs().amax((0, 2)) > 1e-7  # (N,)
        assert not moved[: place + 1].any()
        assert moved[place + 1 :].all()
    assert (model(x, (y + 1) % 10).logits - logits).abs().amax((0, 2)).gt(1e-7).all()


def test_the_loss_is_the_mean_of_minus_log_p():
    model, x = prior().double(), codes()
    out = model(x, torch.tensor([0, 4, 9]))
    p = out.logits.softmax(-1).gather(-1, x.flatten(1)[..., None])
    torch.testing.assert_close(out.loss, -p.log().mean())


def test_drawing_with_a_cache_follows_the_network():
    """Towards temperature 0 every code is the likeliest, given those before it."""
    model, y = prior().double(), torch.tensor([3, -1, 7])
    for guidance in (1.0, 2.5):
        drawn = model.sample_codes(y, temperature=1e-9, guidance=guidance)
        of_class, of_any = model(drawn, y).logits, model(drawn).logits
        assert torch.equal(drawn.flatten(1), (of_any + guidance * (of_class - of_any)).argmax(-1))


def test_draws_repeat_with_their_generator_and_top_k_keeps_to_the_likeliest():
    model, y = prior(), torch.arange(10)
    first, again = (model.sample_codes(y, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(model.sample_codes(y, top_k=1), model.sample_codes(y, temperature=1e-9))


def test_training_mode_comes_back_after_drawing():
    model = prior(dropout=0.5).train()
    assert torch.equal(
        *(model.sample_codes(torch.arange(4), generator=torch.Generator().manual_seed(0)) for _ in range(2))
    )
    assert model.training
    assert model.drop.training


def test_images_go_in_and_come_out_through_the_tokenizer(tokenizer):
    model = prior(tokenizer=tokenizer, tokenizer_hash=fingerprint(hub.load(tokenizer))[:16])
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(model(images).logits, model(model.encode(images)).logits)
    assert model.sample(torch.tensor([1, -1])).shape == (2, 1, 28, 28)
    assert not [k for k in model.state_dict() if "tokenizer" in k]


def test_another_tokenizer_is_refused(tokenizer, tmp_path):
    other = hub.load(tokenizer)
    other.quantizer.codebook += 1
    hub.save(other, tmp_path / "other")
    model = prior(tokenizer=str(tmp_path / "other"), tokenizer_hash=fingerprint(hub.load(tokenizer))[:16])
    with pytest.raises(ValueError, match="other is not the tokenizer that these weights were trained with"):
        model.sample(torch.tensor([1]))
    with pytest.raises(ValueError, match=r"has 24 codes for images \(1, 28, 28\), this prior 30"):
        prior(codebook_size=30, tokenizer=tokenizer).sample(torch.tensor([1]))
    with pytest.raises(ValueError, match=r"bilinear_d256\.mnist has no codes"):
        prior(tokenizer="bilinear_d256.mnist").sample(torch.tensor([1]))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m(codes() + 1), "codes span 1 to 24, allowed 0 to 23"),
        (lambda m: m(codes()[:, :5]), r"codes are \(3, 5, 7\), expected \(B, 7, 7\)"),
        (lambda m: m(codes(), torch.tensor([0, 1, 10])), "labels span 0 to 10, allowed -1 to 9"),
        (lambda m: m(codes(), torch.tensor([0.0, 1, 2])), "labels are torch.float32, expected int64"),
        (lambda m: m(codes().int()), "codes are torch.int32, expected int64"),
        (lambda m: m.sample_codes(torch.tensor([0]), temperature=0.0), r"temperature=0.0, top_k=None: both must be"),
        (lambda m: m.sample_codes(torch.tensor([0]), top_k=0), "top_k=0: both must be positive"),
        (lambda m: prior(heads=3), "dim=32 is no multiple of heads=3"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(prior())


def test_training_learns_and_is_told_by_the_tokenizer(tokenizer, tmp_path):
    import lightning as L

    L.seed_everything(0, verbose=False)
    lit = LitPrior("vqprior_tiny", tokenizer, arch_args={"dim": 32, "depth": 1, "heads": 2}, num_classes=10, lr=1e-2)
    assert (lit.model.grid, lit.model.codebook_size, lit.model.takes.shape) == ((7, 7), 24, (1, 28, 28))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer, data = L.Trainer(max_epochs=8, accelerator="cpu", **quiet), ImageData("samples/mnist", batch_size=100)
    (before,) = trainer.test(lit, data, verbose=False)
    trainer.fit(lit, data)
    (after,) = trainer.test(lit, data, verbose=False)
    assert after["test/loss"] < before["test/loss"] - 0.3
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = hub.load(str(tmp_path / "a.ckpt"))
    assert torch.equal(loaded(codes()).logits, lit.model.eval()(codes()).logits)
    assert LitPrior("vqprior_tiny", tokenizer, weights=str(tmp_path / "a.ckpt")).model._tokenizer.name == tokenizer
