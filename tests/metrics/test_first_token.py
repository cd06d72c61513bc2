"""What a sink replaces, against least squares and closed forms."""

import torch

from sinkctl.metrics.first_token import FirstToken, constant_part, matched

H, G, N, D = 4, 2, 50, 8


def drawn(seed: int = 0) -> FirstToken:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    return FirstToken(normal(G, D), normal(G, D), 0.0, 0.0, normal(H, N), 2 + normal(H, N), normal(H, N, D))


def test_its_mass_and_its_value_make_up_the_output_of_a_softmax_over_all_keys():
    seen = drawn()
    other = torch.stack([seen.score_HN, seen.lse_HN], -1).softmax(-1)
    assert torch.allclose(seen.mass_HN, other[..., 0])
    value_HE = seen.value_GE[[0, 0, 1, 1]]
    expected = other[..., :1] * value_HE[:, None] + other[..., 1:] * seen.out_HNE
    assert torch.allclose(seen.written_HNE(), expected, atol=1e-6)


def test_the_constant_part_is_that_of_least_squares():
    seen, kept_HN = drawn(), torch.rand(H, N)
    found_HE = constant_part(seen, kept_HN)
    for head in range(H):
        missing_NE = seen.written_HNE()[head] - kept_HN[head, :, None] * seen.out_HNE[head]
        fitted_1E = torch.linalg.lstsq(torch.ones(N, 1), missing_NE).solution
        assert torch.allclose(found_HE[head], fitted_1E[0], atol=1e-5)


def test_matching_solves_for_every_head_apart():
    target_H = torch.tensor([0.01, 0.3, 0.5, 0.99])
    found_H = matched(torch.sigmoid, target_H, -30, 30)
    assert torch.allclose(found_H, torch.logit(target_H), atol=1e-4)
