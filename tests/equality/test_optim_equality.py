"""8-bit moments against torch's AdamW: a run ends where it ends with fp32 moments, as near as chance allows."""

import pytest
import torch

from train import model
from train.kernels import adamw as optim
from train.kernels.cross_entropy import linear_cross_entropy

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

STEPS, ROWS, LENGTH, VOCAB = 120, 4, 48, 61
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True,
}


def rows(seed: int) -> torch.Tensor:
    """A language in which a token is followed by one of three, the first of them often."""
    noise = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (STEPS * ROWS, LENGTH + 1), generator=noise)
    choice = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), ids.numel(), True, generator=noise).view_as(ids)
    for t in range(1, LENGTH + 1):
        ids[:, t] = (ids[:, t - 1] * 7 + choice[:, t] * 13 + 5) % VOCAB
    return ids


def train(states: str, beta2: float, seed: int = 0) -> tuple[torch.Tensor, float]:
    """(all weights less where they began, mean loss of the last 20 updates)"""
    net = model.build(SHAPE, seed=1)
    begin = torch.cat([p.detach().flatten().clone() for p in net.parameters()])
    optimizer = optim.adamw(
        net.named_parameters(), lr=3e-3, betas=(0.9, beta2), eps=1e-8, weight_decay=0.1, states=states
    )
    losses = []
    for batch in rows(seed).split(ROWS):
        places = torch.arange(LENGTH).expand(ROWS, -1)
        hidden = net.model(input_ids=batch[:, :-1], position_ids=places, use_cache=False).last_hidden_state
        loss, count = linear_cross_entropy(hidden, net.lm_head.weight, batch[:, 1:])
        for p in net.parameters():
            p.grad = None
        (loss / count).backward()
        optimizer.step()
        losses.append((loss / count).item())
    assert losses[0] > 4 and losses[-1] < 2  # it learns: ln 61 is 4.1
    end = torch.cat([p.detach().flatten() for p in net.parameters()])
    return end - begin, sum(losses[-20:]) / 20


@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_a_run_with_8_bit_moments_ends_as_one_with_fp32(beta2):
    """The yardstick is other rows of the same language, which change a run by chance alone. Rounding makes an error of at most a
    tenth in each sqrt(v), independent between elements and mostly between updates, where the gradient's own noise makes one
    of 1 in each update: so the weights should move apart by at most a tenth of what chance does, and the loss by less."""
    exact, loss = train("fp32", beta2)
    rounded, loss_8bit = train("8bit", beta2)
    chance, _ = train("fp32", beta2, seed=1)
    apart, by_chance = (rounded - exact).norm(), (chance - exact).norm()
    assert 0 < apart < 0.1 * by_chance
    assert abs(loss_8bit - loss) < 0.002 * loss
