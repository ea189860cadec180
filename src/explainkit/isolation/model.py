"""What a call changes in a model: frozen and in eval mode, then restored as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress

from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.isolation.contents import Contents, refill
from explainkit.isolation.copies import Copies
from explainkit.isolation.generators import HeldGenerator
from explainkit.isolation.process import preserve_process
from explainkit.isolation.restoring import each
from explainkit.isolation.weights import Weights
from explainkit.layers import Members, members_of

LARGE = 64 * 2**20
"""Bytes above which a tensor that is no buffer is not copied, just as parameters are not."""


@contextmanager
def preserve_generators(model: nn.Module) -> Iterator[None]:
    """Runs a block that leaves all generators as they are, those that the model holds included.

    What is found out about a model once, and then cached, must not change what follows.
    """
    held = Contents(members_of(model)).generators
    with preserve_process(0):
        try:
            yield
        finally:
            for generator in held:
                generator.restore()


@contextmanager
def preserve_model(
    model: nn.Module, *, keep_mode: bool = False, seed: int = 0
) -> Iterator[tuple[Members, bool]]:
    """Runs a block with the model frozen and in eval mode, then restores everything.

    The page "What a call leaves unchanged" of the reference lists what is restored. Parameters are
    not copied, since that would double the memory of a large model; a change of their values is an
    error. Each part is restored whatever happens to the others.

    Args:
        model: The caller's model.
        keep_mode: Leave each module in its current mode.
        seed: Seed of the random generators that the model holds.

    Yields:
        What the model consists of, and whether any module was in train mode.

    Raises:
        MethodError: The values of a parameter changed during the block, or something could not be
            restored.
    """
    members = members_of(model)
    modules = members.modules
    held = Contents(members)
    uncopied = {id(tensor): tensor for tensor in held.tensors if _is_uncopied(tensor)}
    copies = Copies([t for t in (*members.buffers, *held.tensors) if id(t) not in uncopied])
    weights = Weights([*members.parameters, *uncopied.values()])
    training = [module.training for module in modules]
    failures: list[Exception] = []
    try:
        try:
            weights.freeze()
            for number, generator in enumerate(held.generators):
                generator.seed((seed + 1_000_003 * (number + 1)) % 2**63)
            if not keep_mode:
                for module in compress(modules, training):
                    _set_mode((module, False))
            yield members, any(training)
        finally:
            steps = [
                weights.restore,
                lambda: each(refill, held.changed()),
                lambda: each(_set_mode, _other_modes(modules, training)),
                lambda: each(HeldGenerator.restore, held.generators),
                copies.restore,
            ]
            failures += each(lambda step: failures.extend(step()), steps)
    except BaseException as error:
        if failures:
            error.add_note(_unrestored(model, failures))
        if written := weights.written():
            if type(error) is RuntimeError:  # autograd's own complaint about the same
                raise MethodError(_changed(model, written)) from error
            error.add_note(_changed(model, written))
        raise
    if failures:
        raise MethodError(_unrestored(model, failures)) from failures[0]
    if written := weights.written():
        raise MethodError(_changed(model, written))


def _is_uncopied(tensor: Tensor) -> bool:
    """Whether a tensor that is not registered is treated like a parameter."""
    size = tensor.numel() * tensor.element_size()
    return isinstance(tensor, nn.Parameter) or size > LARGE


def _unrestored(model: nn.Module, failures: list[Exception]) -> str:
    first = f"{type(failures[0]).__name__}: {failures[0]}"
    return (
        f"expected to leave {type(model).__name__} as it was, but {len(failures)} of its parts "
        f"could not be restored, first: {first}; load the model again before using it"
    )


def _changed(model: nn.Module, written: list[Tensor]) -> str:
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    first = next((names[id(t)] for t in written if id(t) in names), "a tensor that it holds")
    return (
        f"expected the model's parameters to be unchanged, but {first!r} was written in place "
        f"({len(written)} in total): a method or a forward must work on a copy "
        "(torch.func.functional_call), and no thread may train the model meanwhile"
    )


def _other_modes(modules: list[nn.Module], training: list[bool]) -> list[tuple[nn.Module, bool]]:
    """Modules whose mode is another than before, with the mode of before."""
    pairs = zip(modules, training, strict=True)
    return [(module, mode) for module, mode in pairs if module.training != mode]


def _set_mode(pair: tuple[nn.Module, bool]) -> None:
    """Sets a module's mode, not by ``train()``, which a model may override with side effects."""
    module, training = pair
    if "training" in vars(module):
        vars(module)["training"] = training
    else:
        module.training = training  # a ScriptModule keeps it outside its __dict__
