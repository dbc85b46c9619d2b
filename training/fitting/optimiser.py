"""fastai's Adam in the fused kernel of PyTorch, which reads and writes each weight once."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.adamw import adamw

from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import Optimizer  # noqa: E402  (needs torchvision to be importable)


def fused_adam(layers: Any, lr: float) -> FusedAdam:
    """Return an optimiser with the defaults of fastai's `Adam`; for the argument `opt_func` of a Learner."""
    return FusedAdam(layers, [], lr=lr, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.01)


class FusedAdam(Optimizer):  # type: ignore[misc]
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as fastai's `Adam`.

    fastai passes over the weights nine times in a step. The results differ by rounding alone.
    """

    def zero_grad(self) -> None:
        """Forget the gradients. fastai fills them with zeros, to which the next ones have to be added."""
        for parameter, *_ in self.all_params():
            parameter.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Change every parameter that has a gradient."""
        for parameters, hyper in zip(self.param_lists, self.hypers, strict=True):
            with_gradient = [one for one in parameters if one.grad is not None]
            # The vectors of batch norm and the biases do not decay.
            decaying = [one for one in with_gradient if self.state[one].get("do_wd", True)]
            others = [one for one in with_gradient if not self.state[one].get("do_wd", True)]
            self._step(decaying, hyper, hyper["wd"])
            self._step(others, hyper, 0.0)

    def _step(self, parameters: list[torch.nn.Parameter], hyper: dict[str, float], decay: float) -> None:
        if not parameters:
            return
        averages = [self._average(one, "grad_avg") for one in parameters]
        squares = [self._average(one, "sqr_avg") for one in parameters]
        adamw(
            [one.data for one in parameters],
            [_laid_out(one.grad, one) for one in parameters if one.grad is not None],
            averages,
            squares,
            [],
            [self._steps(one) for one in parameters],
            fused=True,
            amsgrad=False,
            maximize=False,
            lr=hyper["lr"],
            beta1=hyper["mom"],
            beta2=hyper["sqr_mom"],
            eps=hyper["eps"],
            weight_decay=decay,
        )

    def _average(self, parameter: torch.nn.Parameter, name: str) -> torch.Tensor:
        """Return a moving average of a parameter's gradient, zero at first."""
        state = self.state[parameter]
        average = state.get(name)
        state[name] = torch.zeros_like(parameter) if average is None else _laid_out(average, parameter)
        found: torch.Tensor = state[name]
        return found

    def _steps(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return the number of a parameter's steps, which the kernel counts up."""
        state = self.state[parameter]
        # A checkpoint that was written with fastai's Adam has a plain number.
        state["step"] = torch.as_tensor(state.get("step", 0), dtype=torch.float32, device=parameter.device)
        found: torch.Tensor = state["step"]
        return found


def _laid_out(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return values in the order in which the parameter's lie in memory: the kernel reads all in one order.

    A checkpoint stores them in another order than channels-last.
    """
    if _order(values) == _order(parameter):
        return values
    return torch.empty_like(parameter).copy_(values)


def _order(values: torch.Tensor) -> list[int]:
    """Return the strides of the dimensions that have more than one entry."""
    return [stride for stride, size in zip(values.stride(), values.shape, strict=True) if size > 1]
