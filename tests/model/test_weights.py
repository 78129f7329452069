"""Where a backbone's weights come from: files of others, which may be broken, of another network, or malicious."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from dagf.errors import UserError
from dagf.model.backbone import BackboneSpec, SmallBackbone, make_backbone
from dagf.model.network import RetrievalNet

from .test_network import images, stirred


@pytest.mark.parametrize("name", ["squeezenet1_0", "small"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path: Path, name: str, suffix: str) -> None:
    network = stirred(
        SmallBackbone() if name == "small" else torchvision.models.get_model(name, weights=None)
    )
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    found, _ = make_backbone(BackboneSpec(name, weights=str(path)))
    reference = network.eval() if name == "small" else network.eval().features
    with torch.inference_mode():
        expected = reference(images(1, 3, 64, 64))
        torch.testing.assert_close(found.eval()(images(1, 3, 64, 64)), expected)
        assert not torch.allclose(
            make_backbone(BackboneSpec(name))[0].eval()(images(1, 3, 64, 64)), expected
        )


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, ("raise SystemExit('code in the weights was run')",)


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    broken = {
        "missing.pth": None,
        "missing.safetensors": None,
        "empty.pth": b"",
        "text.pth": b"<html>404</html>",
        "text.safetensors": b"<html>404</html>",
        "code.pth": pickle.dumps(Malicious(), 2),
    }
    for name, data in broken.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    torch.save(
        torchvision.models.get_model("squeezenet1_1", weights=None).state_dict(),
        tmp_path / "other.pth",
    )
    torch.save(Malicious(), tmp_path / "code-in-zip.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in [*broken, "code-in-zip.pth", "other.pth", "list.pth"]:
        refused = name.startswith("code") or name == "text.pth"
        match = (
            "does not exist" if name.startswith("missing") else "does not fit SqueezeNet: .*[a-z]"
        )
        match = "refused: .* more than tensors; save the state dict alone" if refused else match
        with pytest.raises(UserError, match=match) as caught:
            make_backbone(BackboneSpec("squeezenet1_0", weights=str(tmp_path / name)))
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_batch_norms_of_a_pretrained_backbone_stay(tmp_path: Path) -> None:
    torch.save(SmallBackbone().state_dict(), tmp_path / "small.pth")
    kept, free = (
        RetrievalNet(BackboneSpec("small", weights=w))
        for w in (str(tmp_path / "small.pth"), "none")
    )
    for net, moves in ((kept, False), (free, True)):
        net.train()
        before = {name: value.clone() for name, value in net.backbone.named_buffers()}
        net(images(4, 3, 32, 32))
        moved = any(
            not torch.equal(before[name], value) for name, value in net.backbone.named_buffers()
        )
        assert moved is moves
        assert net.backbone.training is moves
        assert net.head.training
        assert all(parameter.requires_grad for parameter in net.backbone.parameters())
        assert not net.eval().training
